from __future__ import annotations

import math

import numpy as np
import pytest
import sequence_twins
import torch
from hypothesis import given
from hypothesis import strategies as st

from holdfast.tasks.sequences import (
    band_rms,
    correlation,
    delay_frames,
    flicker,
    flip_rate,
    jitter,
    jump_rate,
    responsiveness,
)

TIME_S = torch.arange(200, dtype=torch.float64) / 20


@given(st.integers(0, 10_000), st.integers(80, 150))
def test_equal_the_slow_twins(seed: int, frames: int) -> None:
    curve = np.random.default_rng(seed).normal(size=frames).cumsum()
    assert float(jitter(torch.from_numpy(curve))) == pytest.approx(sequence_twins.jitter(curve))
    fast = band_rms(torch.from_numpy(curve), rate_hz=20)
    assert float(fast) == pytest.approx(sequence_twins.band_rms(curve, 20, 0.3, 2.0))


@pytest.mark.parametrize("hertz", [0.5, 1.0, 1.7])
def test_a_sine_in_the_band_has_its_effective_value(hertz: float) -> None:
    curve = 0.3 * torch.sin(2 * math.pi * hertz * TIME_S)
    assert float(band_rms(curve, rate_hz=20)) == pytest.approx(0.3 / math.sqrt(2), rel=0.05)


@pytest.mark.parametrize("hertz", [0.05, 4.0])
def test_a_sine_outside_the_band_is_not_sway(hertz: float) -> None:
    curve = torch.sin(2 * math.pi * hertz * TIME_S)
    assert float(band_rms(curve, rate_hz=20)) < 0.03


def test_a_straight_drift_is_neither_sway_nor_jitter() -> None:
    line = 3 + 0.7 * TIME_S
    assert float(band_rms(line, rate_hz=20)) < 1e-9
    assert float(jitter(line)) < 1e-9


def test_too_short_a_sequence_has_no_sway() -> None:
    assert torch.isnan(band_rms(torch.randn(60), rate_hz=20))
    assert not torch.isnan(band_rms(torch.randn(70), rate_hz=20))
    assert torch.isnan(jitter(torch.randn(2)))


def test_several_curves_count_as_their_root_mean_square() -> None:
    curves = torch.randn(120, 2, generator=torch.Generator().manual_seed(0))
    for measure in (jitter, lambda x: band_rms(x, rate_hz=20)):
        each = torch.stack([measure(curves[:, 0]), measure(curves[:, 1])])
        assert float(measure(curves)) == pytest.approx(float(each.square().mean().sqrt()))


def test_following_the_truth() -> None:
    truth = torch.sin(TIME_S)
    for factor, expected in ((1.0, 1.0), (0.4, 0.4), (1.6, 0.4), (0.0, 0.0), (2.0, 0.0), (-1.0, -1.0)):
        assert float(responsiveness(factor * truth + 7, truth)) == pytest.approx(expected, abs=1e-9)
    assert float(correlation(0.4 * truth + 7, truth)) == pytest.approx(1)
    assert float(correlation(-truth, truth)) == pytest.approx(-1)


# --- stability, and what it costs -----------------------------------------------------------------------


def smoothed(curve: torch.Tensor, share: float) -> torch.Tensor:
    """An exponential average, as a vehicle would run it."""
    out = [curve[0]]
    for value in curve[1:]:
        out.append(share * out[-1] + (1 - share) * value)
    return torch.stack(out)


def test_flicker_is_what_jumps_for_one_frame() -> None:
    steps = torch.tensor([0.0, 0, 0, 5, 5, 5, 9, 9])
    assert float(flicker(steps)) == 0
    blip = torch.tensor([0.0, 0, 0, 3, 0, 0, 0])
    assert float(flicker(blip)) == pytest.approx(3 / math.sqrt(5))
    assert float(flicker(torch.stack([blip, blip], dim=1))) == pytest.approx(3 / math.sqrt(5))
    assert math.isnan(float(flicker(torch.zeros(2))))


def test_flips_are_counted_between_frames() -> None:
    assert float(flip_rate(torch.tensor([1, 1, 2, 1, 1]))) == pytest.approx(2 / 4)
    assert math.isnan(float(flip_rate(torch.tensor([1]))))


@pytest.mark.parametrize("frames", [-3, 0, 2, 7])
def test_a_shifted_curve_comes_so_many_frames_late(frames: int) -> None:
    time = torch.arange(200, dtype=torch.float64)
    truth, late = (torch.sin(0.11 * t) + 0.6 * torch.sin(0.037 * t) for t in (time, time - frames))
    assert float(delay_frames(late, truth)) == pytest.approx(frames, abs=0.05)
    assert float(delay_frames(0.3 * late + 4, truth)) == pytest.approx(frames, abs=0.05)


def test_a_delay_between_frames_is_found() -> None:
    time = torch.arange(300, dtype=torch.float64)
    assert float(delay_frames(torch.sin(0.1 * (time - 2.5)), torch.sin(0.1 * time))) == pytest.approx(2.5, abs=0.1)


def test_what_does_not_move_has_no_delay() -> None:
    moving = torch.sin(0.1 * torch.arange(100.0))
    assert math.isnan(float(delay_frames(moving, torch.zeros(100))))
    assert math.isnan(float(delay_frames(torch.ones(100), moving)))


def test_smoothing_cannot_buy_calm_unnoticed() -> None:
    time = torch.arange(400, dtype=torch.float64)
    truth = torch.sin(0.08 * time) + 0.4 * torch.sin(0.21 * time)
    noisy = truth + 0.2 * torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    calm = smoothed(noisy, 0.8)
    assert float(flicker(calm)) < 0.5 * float(flicker(noisy))
    assert float(jitter(calm)) < 0.5 * float(jitter(noisy))
    assert abs(float(delay_frames(noisy, truth))) < 0.3
    assert float(delay_frames(calm, truth)) > 2.5
    assert float(responsiveness(calm, truth)) < float(responsiveness(noisy, truth)) - 0.05


def test_jumps_are_moves_from_frame_to_frame_beyond_the_threshold() -> None:
    curve = torch.tensor([0.0, 0.1, 0.6, 0.5, 0.0])
    assert float(jump_rate(curve, 0.45)) == 0.5
    assert float(jump_rate(torch.stack([curve, torch.zeros(5)], dim=1), 0.45)) == 0.5  # any of the curves
    assert float(jump_rate(curve, 1.0)) == 0
    assert math.isnan(float(jump_rate(curve[:1], 0.45)))
