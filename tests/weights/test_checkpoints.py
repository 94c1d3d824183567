"""Checkpoint 0 in any loop: plain, lazy, tied and wrapped models."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from holdfast.core.errors import InputError
from holdfast.weights.checkpoints import Checkpoints


def step(model: nn.Module, x: torch.Tensor) -> None:
    model(x).square().mean().backward()
    torch.optim.SGD(model.parameters(), lr=0.5).step()


def test_epoch_zero_is_the_untrained_model_and_later_ones_are_kept_when_asked() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kept = Checkpoints(model)
    step(model, torch.randn(8, 3))
    kept.keep(1)
    step(model, torch.randn(8, 3))
    assert kept.epochs == [0, 1]
    assert list(kept[0]) == list(before)
    assert all(torch.equal(kept[0][name], value) for name, value in before.items())
    assert int(kept[1]["1.num_batches_tracked"]) == 1
    assert not torch.equal(kept[1]["0.weight"], model[0].weight)
    model.load_state_dict(kept[0])


def test_lazy_modules_are_taken_after_their_weights_are_drawn_and_before_training() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(2))
    kept = Checkpoints(model)
    with pytest.raises(InputError, match="'1' is lazy and was never called"):
        kept[0]
    torch.manual_seed(3)
    step(model, torch.randn(8, 3))
    state = kept[0]
    assert list(state) == list(model.state_dict())
    assert int(state["1.num_batches_tracked"]) == 0
    assert not state["1.running_mean"].any()
    assert state["3.weight"].shape == (2, 4)
    assert not torch.equal(state["3.weight"], model[3].weight)
    torch.manual_seed(3)
    torch.randn(8, 3)
    assert state["3.weight"].abs().max() <= 0.5  # 1 / sqrt(fan_in), PyTorch's own law
    assert not any(len(module._forward_pre_hooks) for module in model.modules())
    again = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    again.load_state_dict(state)


def test_lazy_weights_are_the_ones_training_began_with() -> None:
    torch.manual_seed(5)
    model = nn.Sequential(nn.LazyLinear(4), nn.Tanh(), nn.LazyLinear(1))
    kept = Checkpoints(model)
    model(torch.randn(2, 3))
    assert all(torch.equal(kept[0][name], value) for name, value in model.state_dict().items())


def test_ties_and_modules_under_two_names_stay_tied() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model.add_module("again", model[0])
    state = Checkpoints(model)[0]
    assert list(state) == list(model.state_dict())
    assert state["0.weight"] is state["1.weight"] is state["again.weight"]


def test_a_shared_lazy_module_is_taken_under_both_names() -> None:
    lazy = nn.LazyLinear(3)
    model = nn.Sequential(lazy, nn.ReLU())
    model.add_module("again", lazy)
    kept = Checkpoints(model)
    model(torch.randn(2, 3))
    assert list(kept[0]) == list(model.state_dict())


def test_the_module_inside_a_compiled_model_is_meant() -> None:
    model = nn.Linear(2, 2)
    assert list(Checkpoints(torch.compile(model, backend="eager"))[0]) == ["weight", "bias"]


def test_an_epoch_is_kept_once_and_asked_for_by_its_number() -> None:
    kept = Checkpoints(nn.Linear(2, 2))
    kept.keep(2)
    for epoch in (0, 2, -1):
        with pytest.raises(InputError, match="keep each epoch once"):
            kept.keep(epoch)
    with pytest.raises(InputError, match=r"epoch 1 was not kept \(kept are \[0, 2\]\)"):
        kept[1]
