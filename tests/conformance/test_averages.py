"""What every weight average promises, asked of all that are found."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import nn

from holdfast.core.contracts import Average
from holdfast.core.discover import build, names
from holdfast.core.errors import InputError

STEPS = 7


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 48), nn.Linear(48, 48))
    model[4].weight = model[3].weight
    model.register_buffer("table", torch.ones(2))
    return model.to(dtype)


def wander(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator).to(parameter)
        model(torch.randn(4, 1, 6, 6, generator=generator).to(next(model.parameters())))


def observe(average: Any, model: nn.Module, steps: range) -> None:
    for step in steps:
        wander(model, step)
        average.update(model)


@pytest.fixture(params=names("average"))
def average(request: pytest.FixtureRequest) -> Average:
    found: Average = build("average", request.param)
    return found


def test_it_is_an_average_with_a_record(average: Average) -> None:
    assert isinstance(average, Average)
    model = network()
    running = average.start(model)
    observe(running, model, range(2))
    record = running.record()
    assert record["entries"] == {"parameter": 7, "buffer": 1, "batchnorm": 2, "integer": 1, "tied": 1}
    assert record["average"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_weights_fit_the_model_in_names_shapes_dtypes_and_ties(average: Average, dtype: torch.dtype) -> None:
    model = network(dtype)
    running = average.start(model)
    observe(running, model, range(STEPS))
    weights, state = running.weights(), model.state_dict()
    assert list(weights) == list(state)
    assert all(weights[name].dtype == state[name].dtype for name in state)
    assert weights["3.weight"] is weights["4.weight"]
    model.load_state_dict(weights)


def test_an_unmoving_model_is_its_own_average(average: Average) -> None:
    model = network()
    running = average.start(model)
    for _ in range(STEPS):
        running.update(model)
    for name, value in running.weights().items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-5, atol=1e-6)


def test_the_average_lies_within_what_it_saw(average: Average) -> None:
    model = network()
    running = average.start(model)
    seen = [model[0].weight.detach().clone()]
    for step in range(STEPS):
        wander(model, step)
        running.update(model)
        seen.append(model[0].weight.detach().clone())
    weights = running.weights()["0.weight"]
    low, high = torch.stack(seen).amin(0) - 1e-6, torch.stack(seen).amax(0) + 1e-6
    assert bool(((weights >= low) & (weights <= high)).all())
    assert not torch.equal(weights, seen[0])


def test_it_observes_and_never_interferes(average: Average) -> None:
    alone, watched = network(), network()
    running = average.start(watched)
    for step in range(STEPS):
        wander(alone, step)
        wander(watched, step)
        running.update(watched)
    for value in running.weights().values():
        value.zero_()
    for value in torch.utils._pytree.tree_leaves(running.state_dict()):
        if isinstance(value, torch.Tensor):
            value.zero_()
    assert all(torch.equal(value, watched.state_dict()[name]) for name, value in alone.state_dict().items())


def test_it_resumes_to_the_same_bits_from_a_safe_file(average: Average) -> None:
    straight_model, model = network(), network()
    straight, running = average.start(straight_model), average.start(model)
    observe(straight, straight_model, range(STEPS))
    observe(running, model, range(3))
    file = io.BytesIO()
    torch.save(running.state_dict(), file)
    file.seek(0)
    resumed = average.start(network())
    resumed.load_state_dict(torch.load(file, weights_only=True))
    observe(resumed, model, range(3, STEPS))
    expected = straight.weights()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.weights().items())


def test_counters_are_never_averaged(average: Average) -> None:
    model = network()
    running = average.start(model)
    observe(running, model, range(STEPS))
    assert int(running.weights()["1.num_batches_tracked"]) == STEPS


def test_another_architecture_is_refused(average: Average) -> None:
    running = average.start(network())
    with pytest.raises(InputError):
        running.update(nn.Linear(2, 2))
