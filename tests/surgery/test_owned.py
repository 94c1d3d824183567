from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from holdfast.core.errors import InputError
from holdfast.surgery.owned import owned_layers, swapped


class Tied(nn.Module):
    """An embedding whose weight is the head's, a bare parameter, and one module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.ones(4))
        self.embedding = nn.Embedding(7, 4)
        self.norm = nn.LayerNorm(4)
        self.again = self.norm
        self.head = nn.Linear(4, 7)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.again(self.norm(self.embedding(x)) + self.token))


def test_every_parameter_belongs_to_one_layer_and_ties_are_kept() -> None:
    layers = owned_layers(Tied())
    assert {name: layer.parameters for name, layer in layers.items()} == {
        "(model)": ("token",),
        "embedding": ("embedding.weight", "head.bias"),
        "norm": ("norm.weight", "norm.bias"),
    }
    assert layers["embedding"].modules == ("embedding", "head")


def test_three_modules_that_share_pairwise_are_one_layer() -> None:
    a, b, c = (nn.Linear(3, 3) for _ in range(3))
    c.weight, c.bias = a.weight, b.bias
    layers = owned_layers(nn.Sequential(a, b, c))
    assert list(layers) == ["0"]
    assert sorted(layers["0"].modules) == ["0", "1", "2"]


def test_no_parameters_are_refused() -> None:
    with pytest.raises(InputError, match="no parameters"):
        owned_layers(nn.ReLU())


def test_a_swap_changes_what_is_shared_everywhere_and_gives_the_bits_back() -> None:
    model = Tied().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    storages = {name: value.data_ptr() for name, value in model.state_dict().items()}
    x = torch.arange(7)
    plain = model(x)
    with swapped(model, {"embedding.weight": torch.zeros(7, 4)}):
        assert not model.head.weight.any()
        assert not torch.equal(model(x), plain)
    with pytest.raises(RuntimeError, match="stop"), swapped(model, {"token": torch.zeros(4)}):
        raise RuntimeError("stop")
    assert torch.equal(model(x), plain)
    assert {name: value.data_ptr() for name, value in model.state_dict().items()} == storages
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("name", "value", "said"), [
    ("head.wieght", torch.zeros(7, 4), "did you mean 'head.weight'"),
    ("head.bias", torch.zeros(8), r"is torch.float32 \(7,\), not torch.float32 \(8,\)"),
    ("head.bias", torch.zeros(7).half(), "not torch.float16"),
])  # fmt: skip
def test_a_swap_that_does_not_fit_is_refused(name: str, value: Tensor, said: str) -> None:
    with pytest.raises(InputError, match=said), swapped(Tied(), {name: value}):
        pass
