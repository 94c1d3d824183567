from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.tasks.lane_measures import (
    CAMERA,
    DISTANCES_M,
    METRES_PER_PX,
    RATE_HZ,
    at,
    bend,
    jitter,
    lane_drifts,
    lane_metrics,
    responsiveness,
    sway,
)

FRAMES = 120
METRICS = {metric.name: metric for metric in lane_metrics()}
DRIFTS = {drift.name: drift for drift in lane_drifts()}


@pytest.fixture
def drive():
    """Two lines 3.5 m apart that weave by half a metre, as a batch of truth."""
    time = torch.arange(FRAMES) / RATE_HZ
    weave = 0.5 * torch.sin(2 * math.pi * 0.4 * time)
    lateral = weave[:, None, None] + torch.tensor([-1.75, 1.75])[:, None] + torch.zeros(len(DISTANCES_M))
    return {
        "line_px": lateral / METRES_PER_PX,
        "valid": torch.ones(FRAMES, 2, len(DISTANCES_M), dtype=torch.bool),
    }


def moved(batch, metres):
    """The true lines, moved to the right by (T,) or () metres at every distance."""
    return batch["line_px"] + torch.as_tensor(metres).reshape(-1, 1, 1) / METRES_PER_PX


def sine(amplitude_m, frequency_hz):
    return amplitude_m * torch.sin(2 * math.pi * frequency_hz * torch.arange(FRAMES) / RATE_HZ + 0.3)


def test_a_pixel_is_worth_what_the_camera_says():
    for i, distance in enumerate(DISTANCES_M):
        one_metre = CAMERA.column(torch.tensor(1.0), torch.tensor(distance)) - CAMERA.column(
            torch.tensor(0.0), torch.tensor(distance)
        )
        assert float(METRES_PER_PX[i]) == pytest.approx(CAMERA.width_px / 160 / float(one_metre), rel=1e-5)


@pytest.mark.parametrize("metres", [0.25, -0.1])
def test_a_constant_shift_is_lateral_error_and_nothing_else(drive, metres):
    outputs = moved(drive, metres)
    for distance in (10, 20, 42):
        error = METRICS[f"lateral_error_{distance}m"].compute(outputs, drive)
        torch.testing.assert_close(error, torch.full((FRAMES,), abs(metres)), atol=1e-5, rtol=0)
    for name in ("sway_20m", "sway_42m", "jitter_20m", "jitter_42m"):
        assert float(METRICS[name].compute(outputs, drive)) == pytest.approx(0, abs=1e-5), name
    assert float(METRICS["responsiveness_20m"].compute(outputs, drive)) == pytest.approx(1, abs=1e-4)


def test_one_wrong_line_counts_half(drive):
    outputs = drive["line_px"].clone()
    outputs[:, 0] += 0.4 / METRES_PER_PX
    torch.testing.assert_close(METRICS["lateral_error_20m"].compute(outputs, drive), torch.full((FRAMES,), 0.2))


def test_points_out_of_view_do_not_count(drive):
    outputs = moved(drive, 0.2)
    outputs[:, 1] += 100
    drive["valid"][:, 1] = False
    torch.testing.assert_close(METRICS["lateral_error_20m"].compute(outputs, drive), torch.full((FRAMES,), 0.2))
    torch.testing.assert_close(METRICS["bend"].compute(outputs, drive), bend(moved(drive, 0.2) - drive["line_px"]))
    drive["valid"][0] = False
    assert METRICS["lateral_error_20m"].compute(outputs, drive)[0].isnan()


@given(amplitude=st.floats(0.01, 1.0), cycles=st.integers(3, 11))
@settings(max_examples=30, deadline=None)
def test_a_sine_inside_the_band_sways_by_its_effective_value(amplitude, cycles):
    found = sway(sine(amplitude, cycles / 6.0)[:, None])
    # Sines near the edges of the band lose what the window smears over the edge: a sixth of the power at most.
    assert float(found) == pytest.approx(amplitude / math.sqrt(2), rel=0.09)


def test_a_sine_in_the_middle_of_the_band_is_exact():
    assert float(sway(sine(0.1, 1.0)[:, None])) == pytest.approx(0.1 / math.sqrt(2), rel=1e-3)


def test_slow_drift_and_fast_shake_are_not_sway():
    assert float(sway(torch.linspace(0, 1, FRAMES)[:, None])) < 1e-3
    assert float(sway(sine(0.1, 6.0)[:, None])) < 1e-3
    assert float(sway(sine(0.1, 0.05)[:, None])) < 0.01


def test_jitter_is_the_second_difference_of_a_sine():
    frequency = 5.0
    gain = 2 - 2 * math.cos(2 * math.pi * frequency / RATE_HZ)  # of the second difference at that frequency
    assert float(jitter(sine(0.1, frequency)[:, None])) == pytest.approx(gain * 0.1 / math.sqrt(2), rel=0.02)
    assert float(jitter(torch.linspace(0, 3, FRAMES)[:, None])) < 1e-6


def test_movement_of_two_lines_is_their_root_mean_square():
    lines = torch.stack((sine(0.1, 1.0), torch.zeros(FRAMES)), dim=1)
    assert float(sway(lines)) == pytest.approx(0.1 / 2, rel=1e-3)


def test_true_motion_is_taken_out_before_sway(drive):
    own = sine(0.06, 1.0)
    found = METRICS["sway_20m"].compute(moved(drive, own), drive)
    assert float(found) == pytest.approx(0.06 / math.sqrt(2), rel=1e-3)
    standing = drive["line_px"].mean(dim=0, keepdim=True).expand_as(drive["line_px"])
    assert float(METRICS["sway_20m"].compute(standing, drive)) > 0.3  # the road moves under a line that does not


@pytest.mark.parametrize(("share", "expected"), [(1.0, 1.0), (0.0, 0.0), (0.5, 0.5), (1.5, 0.5)])
def test_responsiveness_exposes_a_stiff_line(drive, share, expected):
    true = at(drive["line_px"], 20)
    predicted = true.mean(dim=0) + share * (true - true.mean(dim=0)) + 0.3
    assert float(responsiveness(predicted, true)) == pytest.approx(expected, abs=1e-4)


def test_bend_sees_shape_only(drive):
    along = torch.arange(len(DISTANCES_M), dtype=torch.float32)
    tilted = drive["line_px"] + 3 + 0.5 * along
    assert float(METRICS["bend"].compute(tilted, drive).abs().max()) < 1e-4
    bent = drive["line_px"] + 0.25 * along**2
    torch.testing.assert_close(METRICS["bend"].compute(bent, drive), torch.full((FRAMES,), 0.5), atol=1e-4, rtol=0)


def test_drifts_are_the_metrics_with_the_reference_as_truth(drive):
    other = moved(drive, sine(0.05, 1.0)) + 0.01 * torch.arange(len(DISTANCES_M)) ** 2
    pairs = {
        "displacement_42m": "lateral_error_42m",
        "displacement_20m": "lateral_error_20m",
        "displacement_10m": "lateral_error_10m",
        "displacement_bend": "bend",
        "displacement_sway_20m": "sway_20m",
        "displacement_jitter_20m": "jitter_20m",
        "displacement_sway_42m": "sway_42m",
        "displacement_jitter_42m": "jitter_42m",
    }
    assert set(pairs) == set(DRIFTS)
    for drift, metric in pairs.items():
        unlabelled = DRIFTS[drift].compute(drive["line_px"], other, {})
        torch.testing.assert_close(unlabelled, METRICS[metric].compute(other, drive))
        assert DRIFTS[drift].unit == METRICS[metric].unit
        assert DRIFTS[drift].over == METRICS[metric].over
