"""Datapaths: importances by hand, and the layer at which a planted fault is found."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from holdfast.core.errors import InputError, NoEffectError
from holdfast.surgery.datapath import Trace, compare, critical_channels, jaccard, trace


class Skips(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a = nn.Conv2d(8, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.project = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        y = self.b(torch.relu_(self.a(x)))
        y += self.project(x)
        return self.head(torch.relu_(y).mean((2, 3)))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(inplace=True), nn.Linear(12, 3))


def losses(model: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    return lambda: nn.functional.cross_entropy(model(x), torch.arange(len(x)) % 3, reduction="none")


def noise_at(module: nn.Module, decibel: float, seed: int) -> torch.utils.hooks.RemovableHandle:
    """Gaussian noise of a given distance from the signal, added to a module's output."""

    def add(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed))
        return output + noise * output.norm() / noise.norm() * 10 ** (-decibel / 20)

    return module.register_forward_hook(add)


def test_importance_is_the_gate_gradient_by_hand() -> None:
    model = network()
    x = torch.randn(7, 6)
    found = trace(model, losses(model, x))
    gates = torch.ones(7, 12, requires_grad=True)
    hidden = model[1](model[0](x) * gates)
    loss = nn.functional.cross_entropy(model[4](model[3](model[2](hidden))), torch.arange(7) % 3, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, gates)
    torch.testing.assert_close(found.importance["0"], gradient.abs().double().mean(0), rtol=1e-5, atol=1e-7)


def test_channels_of_maps_and_of_tokens_are_told_apart() -> None:
    conv, tokens = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(180, 3)), nn.Sequential(nn.Linear(6, 4))
    seen = trace(conv, losses(conv, torch.randn(4, 3, 8, 8)))
    assert {name: len(values) for name, values in seen.importance.items()} == {"0": 5, "2": 3}
    assert len(trace(tokens, lambda: tokens(torch.randn(2, 7, 6)).sum((1, 2))).importance["0"]) == 4


def test_outputs_that_are_overwritten_later_are_kept_as_they_were() -> None:
    model = network()
    x = torch.randn(5, 6)
    with torch.no_grad():
        seen = trace(model, lambda: model(x))
        torch.testing.assert_close(seen.outputs["2"], model[2](torch.relu(model[0](x))))
    assert bool((seen.outputs["2"] < 0).any())
    assert not seen.importance


@pytest.mark.parametrize(("importance", "mass", "expected"), [
    ([4.0, 3, 2, 1], 0.7, {0, 1}), ([4.0, 3, 2, 1], 0.71, {0, 1, 2}), ([1.0, 0, 0], 1.0, {0}), ([0.0, 0], 0.9, set()),
])  # fmt: skip
def test_critical_channels_are_the_smallest_set(importance: list[float], mass: float, expected: set[int]) -> None:
    assert critical_channels(torch.tensor(importance).double(), mass) == expected


def test_overlap() -> None:
    assert jaccard(frozenset({1, 2, 3}), frozenset({2, 3, 4})) == pytest.approx(0.5)
    assert jaccard(frozenset(), frozenset()) == 1.0
    with pytest.raises(InputError, match="mass 0 is not a share"):
        critical_channels(torch.ones(2), 0)


def test_equal_runs_agree_everywhere_and_diverge_nowhere() -> None:
    model = Skips()
    x = torch.randn(6, 3, 8, 8)
    found = compare(model, *(trace(model, losses(model, x)) for _ in range(2)))
    assert [layer.layer for layer in found.layers] == ["stem", "a", "b", "project", "head"]
    assert all(layer.overlap == 1 and layer.added_db == 0 and layer.gain == 1 for layer in found.layers)
    assert found.divergence_layer() is None
    assert found.first_below(0.5) is None


@pytest.mark.parametrize("layer", ["stem", "a", "b", "project", "head"])
def test_a_fault_is_found_in_its_layer_beside_noise_everywhere(layer: str) -> None:
    torch.manual_seed(0)
    model = Skips().eval()
    x = torch.rand(32, 3, 8, 8)
    clean = trace(model, losses(model, x))
    found = []
    for seed in range(4):
        handles = [noise_at(module, 60, 10 * seed + i) for i, module in enumerate(model.children())]
        handles.append(noise_at(model.get_submodule(layer), 20, 1000 + seed))
        other = trace(model, losses(model, x))
        for handle in handles:
            handle.remove()
        path = compare(model, clean, other)
        found.append(path.divergence_layer())
        at = next(entry for entry in path.layers if entry.layer == layer)
        assert at.output_db == pytest.approx(20, abs=0.5)
        assert at.own_db == pytest.approx(20, abs=0.5)
        assert min(entry.own_db for entry in path.layers if entry.layer != layer) == pytest.approx(60, abs=1)
    assert found == [layer] * 4


def test_other_inputs_alone_name_the_layer_that_enlarges_the_difference_most() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1), nn.Linear(1, 1))
    with torch.no_grad():
        for layer, weight in zip(model, (torch.eye(2), torch.tensor([[1.0, -1.0]]), torch.ones(1, 1)), strict=True):
            layer.weight.copy_(weight)
            layer.bias.zero_()
    g = torch.Generator().manual_seed(0)
    x = 1 + 0.05 * torch.rand(30, 2, generator=g)  # two values that are nearly equal: their difference is delicate
    with torch.no_grad():
        clean = trace(model, lambda: model(x))
        other = trace(model, lambda: model(x + 0.005 * torch.randn(30, 2, generator=g)))
    path = compare(model, clean, other)
    assert all(layer.own_db == 100 for layer in path.layers)
    assert path.divergence_layer() == "1"
    assert path.divergence_layer(least_db=60) is None


def test_a_run_that_broke_is_found_where_it_broke() -> None:
    model = network()
    x = torch.randn(5, 6)
    clean = trace(model, losses(model, x))
    handle = model[2].register_forward_hook(lambda m, i, o: o * torch.nan)
    with torch.no_grad():
        broken = trace(model, lambda: model(x))
    handle.remove()
    path = compare(model, clean, broken)
    assert path.divergence_layer() == "2"
    assert path.layers[1].output_db == -100
    assert math.isnan(path.layers[0].overlap)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(NoEffectError, match="calls no layer"):
        trace(network(), lambda: torch.zeros(1))
    with pytest.raises(InputError, match="share no layer"):
        compare(network(), *[Trace(inputs={}, calls={}, outputs={}, importance={})] * 2)


def test_hooks_are_gone_and_gradients_untouched() -> None:
    model = network()
    trace(model, losses(model, torch.randn(4, 6)))
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
