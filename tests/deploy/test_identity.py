from __future__ import annotations

import torch
from torch import nn

from holdfast.deploy.identity import architecture_key, digest, named_state, tensors_key, versions, weights_key


def test_digest_ignores_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 2, "b": 1})


def test_tensors_by_bits_dtype_shape_and_name() -> None:
    x = torch.arange(6.0)
    keys = {
        tensors_key([x]), tensors_key([x.double()]), tensors_key([x.view(2, 3)]), tensors_key({"x": x}),
        tensors_key([x + 1e-6]),
    }  # fmt: skip
    assert len(keys) == 5
    assert tensors_key([x.view(2, 3).T.contiguous().T]) == tensors_key([x.view(2, 3)])


def test_weights_change_one_key_and_architecture_the_other(conv_net, images) -> None:
    a, b, other = conv_net(0), conv_net(1), conv_net(0, gain=1.01)
    assert architecture_key(a, (images,)) == architecture_key(b, (images,))
    assert weights_key(a) != weights_key(b)
    assert weights_key(a) == weights_key(other)
    assert architecture_key(a, (images,)) != architecture_key(other, (images,))


def test_architecture_covers_sharing_constants_and_input_shapes(images) -> None:
    plain = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    constant = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    constant[0]._offset = torch.ones(3)
    x = (torch.rand(2, 3),)
    keys = {architecture_key(model, x) for model in (plain, tied, constant)}
    assert len(keys | {architecture_key(plain, (torch.rand(2, 4, 3),))}) == 4
    assert architecture_key(plain, x) == architecture_key(plain, (torch.rand(9, 3),))


def test_state_holds_buffers_that_a_state_dict_leaves_out() -> None:
    model = nn.Linear(2, 2)
    model.register_buffer("scale", torch.ones(1), persistent=False)
    assert set(named_state(model)) == {"weight", "bias", "scale"}


def test_versions_of_what_is_not_there() -> None:
    assert versions("torch", "no-such-package") == {"torch": torch.__version__, "no-such-package": "absent"}
