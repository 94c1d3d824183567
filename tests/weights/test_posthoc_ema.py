from __future__ import annotations

import numpy as np
import pytest
import torch
from averages_twin import profile_average, snapshot
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from holdfast.core.errors import InputError
from holdfast.weights.posthoc_ema import PostHocEMA, Profile, power_of_width, solve_profile


def random_walk(steps: int, *, every: int, stored: tuple[float, float] = (0.05, 0.1)) -> tuple[object, list]:
    torch.manual_seed(0)
    model = nn.Linear(4, 4).double()
    average = PostHocEMA(stored_widths=stored, every_steps=every).start(model)
    seen = []
    for _ in range(steps):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        average.update(model)
        seen.append(snapshot(model))
    return average, seen


@given(st.floats(0.01, 0.2886))
@settings(deadline=None)
def test_the_power_has_the_width(width: float) -> None:
    gamma = power_of_width(width)
    assert np.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))) == pytest.approx(width, rel=1e-6)


def test_the_width_is_the_relative_deviation_of_the_profile() -> None:
    gamma = power_of_width(0.1)
    tau = (np.arange(100_000) + 0.5) / 100_000
    p = (gamma + 1) * tau**gamma
    centre = (p * tau).mean()
    assert np.sqrt((p * (tau - centre) ** 2).mean()) == pytest.approx(0.1, rel=1e-4)


def test_a_stored_width_comes_back_as_it_was_stored() -> None:
    average, seen = random_walk(200, every=50)
    twin = profile_average(seen, power_of_width(0.05))
    torch.testing.assert_close(average.at(0.05)["weight"], twin["weight"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("width", [0.03, 0.07, 0.15, 0.2])
def test_other_widths_are_reconstructed(width: float) -> None:
    average, seen = random_walk(400, every=20)
    twin = profile_average(seen, power_of_width(width))
    travelled = (seen[-1]["weight"] - seen[0]["weight"]).norm()
    assert float((average.at(width)["weight"] - twin["weight"]).norm() / travelled) < 0.02


def test_an_earlier_step_is_reconstructed() -> None:
    average, seen = random_walk(400, every=20)
    twin = profile_average(seen[:300], power_of_width(0.1))
    torch.testing.assert_close(average.at(0.1, step=300)["weight"], twin["weight"], rtol=1e-6, atol=1e-6)


def test_reconstruction_needs_snapshots() -> None:
    # Two profiles of one moment hold too little of the past: the many snapshots are what makes other widths possible.
    few, seen = random_walk(400, every=1000)
    many, _ = random_walk(400, every=20)
    twin = profile_average(seen, power_of_width(0.2))["weight"]
    assert (many.at(0.2)["weight"] - twin).norm() < 0.5 * (few.at(0.2)["weight"] - twin).norm()


@given(st.floats(0.02, 0.25), st.integers(1, 40))
@settings(deadline=None, max_examples=30)
def test_coefficients_sum_to_one(width: float, count: int) -> None:
    stored = [Profile(w, 10 * (k + 1)) for k in range(count) for w in (0.05, 0.1)]
    assert sum(solve_profile(stored, Profile(width, 10 * count))) == pytest.approx(1.0, abs=1e-6)


def test_weights_that_never_move_stay() -> None:
    model = nn.Linear(3, 3)
    average = PostHocEMA(every_steps=3).start(model)
    for _ in range(20):
        average.update(model)
    torch.testing.assert_close(average.weights()["weight"], model.weight.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "settings_", [{"width": 0.0}, {"width": 0.3}, {"stored_widths": (0.1, 0.1)}, {"every_steps": 0}]
)
def test_wrong_settings_are_refused(settings_: dict[str, object]) -> None:
    with pytest.raises(InputError):
        PostHocEMA(**settings_)


def test_a_step_beyond_the_run_is_refused() -> None:
    average, _ = random_walk(10, every=5)
    with pytest.raises(InputError, match="beyond"):
        average.at(0.1, step=11)
