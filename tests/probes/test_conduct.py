"""What the witness sees and puts back, one alteration at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from holdfast.probes.conduct import Witness
from holdfast.probes.memory import out_of_memory


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).eval()


def step(model: nn.Sequential) -> None:
    with torch.no_grad():
        model[0].weight[0, 0] = torch.nextafter(model[0].weight[0, 0], torch.tensor(9.0))


def statistics(model: nn.Sequential) -> None:
    model[1].train()
    model[1](torch.rand(4, 4, generator=torch.Generator().manual_seed(0)))
    model[1].eval()


def gradient(model: nn.Sequential) -> None:
    model[0].bias.grad = torch.zeros(4)


ALTERATIONS: dict[str, tuple[Callable[[nn.Sequential], object], str]] = {
    "one ulp": (step, "value of 0.weight"),
    "statistics": (statistics, "value of 1.running_mean"),
    "gradient": (gradient, "gradient of 0.bias"),
    "frozen": (lambda model: model[0].requires_grad_(False), "requires_grad of 0.weight"),
    "mode": (lambda model: model.train(), "training mode of the model"),
    "random state": (lambda model: torch.rand(1), "torch's random state"),
}


@pytest.mark.parametrize("name", ALTERATIONS)
def test_every_alteration_is_seen_and_undone(name: str) -> None:
    alter, said = ALTERATIONS[name]
    model = net()
    witness = Witness.of(model)
    assert witness.differences(model) == []
    alter(model)
    assert said in witness.differences(model)
    witness.restore(model)
    assert witness.differences(model) == []


def test_a_hook_that_stays_is_seen() -> None:
    model = net()
    witness = Witness.of(model)
    handle = model[0].register_forward_hook(lambda *_: None)
    assert witness.differences(model) == ["hooks of 0"]
    handle.remove()
    assert witness.differences(model) == []


def test_nan_is_the_same_bits_and_minus_zero_is_not_zero() -> None:
    model = net()
    with torch.no_grad():
        model[0].bias[:2] = torch.tensor([float("nan"), 0.0])
    witness = Witness.of(model)
    assert witness.differences(model) == []
    with torch.no_grad():
        model[0].bias[1] = -0.0
    assert witness.differences(model) == ["value of 0.bias"]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("Failed to allocate memory for requested buffer of size 8589934592"),
    ],
)
def test_every_allocator_is_understood(error: Exception) -> None:
    assert out_of_memory(error)


def test_torch_itself_raises_such_an_error() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, dtype=torch.uint8)
    assert out_of_memory(caught.value)
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
