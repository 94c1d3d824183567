from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from toy_tasks import ConvNet, classification, images, model_of

from holdfast.core.errors import InputError
from holdfast.surgery.auxiliary_head import AuxiliaryHead
from holdfast.surgery.tapped import Tapped, evaluating, last_layer, read_tap
from holdfast.surgery.taps import Taps


def wrapped(seed=0):
    return Tapped(model_of(classification(), seed).eval())


X = images()["image"]


def test_without_keywords_it_is_the_model():
    model = wrapped()
    assert torch.equal(model(X), model.model(X))


def test_reads_outputs_and_inputs_of_layers():
    model = wrapped()
    outputs, read = model(X, taps=("features.0", "head:input"))
    assert torch.equal(outputs, model.model(X))
    assert torch.equal(read["features.0"], model.model.features[0](X))
    assert torch.equal(read["head:input"], model.model.features(X).flatten(1))
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


def test_adds_at_a_tap_with_a_gradient():
    model = wrapped()
    delta = torch.zeros(6, 96, requires_grad=True)
    outputs = model(X, add={"head:input": delta})
    assert torch.equal(outputs, model(X))
    (gradient,) = torch.autograd.grad(outputs.sum(), delta)
    torch.testing.assert_close(gradient, model.model.head.weight.sum(0).expand(6, 96))
    moved, read = model(X, add={"head:input": torch.ones(6, 96)}, taps=("head:input",))
    torch.testing.assert_close(moved - model(X), model.model.head.weight.sum(1).expand(6, 3), rtol=1e-4, atol=1e-5)
    assert torch.equal(read["head:input"], model.model.features(X).flatten(1) + 1)


def test_modules_that_return_tuples_and_are_called_twice():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.LSTM(3, 3, batch_first=True)

        def forward(self, x):
            first, _ = self.cell(x)
            return self.cell(first)[0]

    torch.manual_seed(0)
    model = Tapped(Recurrent())
    x = torch.rand(2, 4, 3)
    outputs, read = model(x, taps=("cell",))
    assert torch.equal(read["cell"], model.model.cell(x)[0])
    assert torch.equal(outputs, model.model(x))


def test_reading_a_tap_ends_the_forward_there():
    model = model_of(classification())
    calls = []
    model.head.register_forward_hook(lambda *_: calls.append(1))
    with evaluating(model):
        assert torch.equal(read_tap(lambda: model(X), model, "features.3"), model.features(X))
    assert not calls
    assert model.training
    assert last_layer(lambda: model(X), model) == "head"


class Blocks(nn.Module):
    """Two layers, of which the first may be checkpointed; says how far a forward came."""

    def __init__(self, checkpointed: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Sequential(nn.Linear(3, 4), nn.Tanh()), nn.Linear(4, 2)
        self.checkpointed, self.ended = checkpointed, 0

    def forward(self, x):
        hidden = checkpoint(self.first, x, use_reentrant=False) if self.checkpointed else self.first(x)
        outputs = self.last(hidden)
        self.ended += 1
        return outputs


@pytest.mark.parametrize(("checkpointed", "tap", "ends"), [
    (False, "first.0", True), (False, "last:input", True), (False, "last", True),
    (True, "first.0", False), (True, "last:input", True),
])  # fmt: skip
def test_a_forward_of_which_only_taps_are_wanted_ends_at_the_last_of_them(checkpointed, tap, ends):
    torch.manual_seed(0)
    model, x = Tapped(Blocks(checkpointed)), torch.rand(5, 3)
    outputs, expected = model(x, taps=(tap,))
    assert outputs is not None
    nothing, read = model(x, taps=(tap,), only_read=True)
    assert (nothing is None, model.model.ended) == (ends, 1 if ends else 2)
    assert torch.equal(read[tap], expected[tap])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    both, twice = [p for p in model.parameters() if p.grad is None], []
    for found in (read[tap], expected[tap]):
        found.square().sum().backward()
        twice.append([None if p.grad is None else p.grad.clone() for p in both])
        model.zero_grad()
    torch.testing.assert_close(*twice)


def test_on_several_processes_a_forward_runs_to_its_end(monkeypatch):
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    model = Tapped(Blocks(checkpointed=False))
    outputs, _ = model(torch.rand(5, 3), taps=("first.0",), only_read=True)
    assert outputs is not None


def test_an_error_inside_a_forward_is_nobodys_tap():
    model = Tapped(nn.Sequential(nn.Linear(3, 4), nn.Linear(3, 4)))
    with pytest.raises(RuntimeError, match="shapes"):
        model(torch.rand(2, 3), taps=("0",))
    assert not model.model[0]._forward_hooks
    with pytest.raises(InputError, match="no module 'typo'"):
        model(torch.rand(2, 3), taps=("0", "typo", "1"))
    assert not any(module._forward_hooks for module in model.modules())


def test_refusals():
    model = wrapped()
    with pytest.raises(InputError, match=r"did you mean 'features\.0'"):
        model(X, taps=("feature.0",))
    with pytest.raises(InputError, match="no layer is named"):
        Taps().apply(model.model, (X,))
    with pytest.raises(InputError, match="no module 'embedding'"):
        Taps(layers=("embedding",)).apply(model.model, (X,))
    lonely = ConvNet()
    lonely.unused = nn.Linear(1, 1)
    with pytest.raises(InputError, match="not reached"):
        Tapped(lonely)(X, taps=("unused",))
    with pytest.raises(InputError, match="not reached"):
        read_tap(lambda: lonely(X), lonely, "unused")


def test_taps_and_heads_share_one_wrapper_and_are_stripped_together():
    model = model_of(classification()).train()
    tapped = Taps(layers=("features.0",)).apply(model, (X,))
    headed = AuxiliaryHead(name="turn", outputs=4).apply(tapped, (X,))
    assert headed is tapped
    assert tapped.head_taps == {"turn": "head:input"}
    assert all(m.training for m in tapped.modules())
    outputs, read = tapped(X, heads=("turn",))
    assert (outputs.shape, read["turn"].shape) == ((6, 3), (6, 4))
    assert Taps(layers=("features.0",)).strip(tapped) is model
    assert AuxiliaryHead().strip(model) is model


def test_heads_are_reproducible_and_leave_the_global_generator_alone():
    models = [model_of(classification(), seed) for seed in (1, 2)]
    state = torch.random.get_rng_state()
    a, b = (AuxiliaryHead(tap="features.0", seed=3).apply(model, (X,)) for model in models)
    assert torch.equal(a.heads["head"].linear.weight, b.heads["head"].linear.weight)
    assert torch.equal(torch.random.get_rng_state(), state)
    with pytest.raises(InputError, match="a head 'head' already"):
        AuxiliaryHead().apply(a, (X,))


def test_heads_average_over_positions():
    assert AuxiliaryHead(tap="features.0").apply(model_of(classification()), (X,)).heads["head"].linear.in_features == 6
    x = X[:, 0, :, :5]
    sequence = AuxiliaryHead(tap="0", channel_dim=-1).apply(nn.Sequential(nn.Linear(5, 7), nn.Flatten()), (x,))
    _, read = sequence(x, heads=("head",))
    expected = sequence.heads["head"].linear(sequence.model[0](x).mean(1))
    torch.testing.assert_close(read["head"], expected)
