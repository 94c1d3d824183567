"""How lane lines are judged: metres across the road, bend along the line, and movement that the road did not make."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from holdfast.core.contracts import Batch, Drift, Metric
from holdfast.data.road import Camera
from holdfast.tasks.sequences import band_rms, jitter, jump_rate, responsiveness

__all__ = [
    "CAMERA", "DISTANCES_M", "METRES_PER_PX", "RATE_HZ", "SIZE", "at", "bend", "jitter", "lane_drifts", "lane_metrics",
    "lane_symptoms", "lateral_error", "responsiveness", "sway",
]  # fmt: skip

CAMERA = Camera()
SIZE = (96, 160)
DISTANCES_M = (7.0, 8.5, 10.0, 12.0, 14.0, 17.0, 20.0, 24.0, 29.0, 35.0, 42.0, 50.0)
METRES_PER_PX = torch.tensor(DISTANCES_M) * CAMERA.width_px / (CAMERA.focal_px * SIZE[1])
"""What one pixel of the network's input is worth across the road, at each of `DISTANCES_M`."""
RATE_HZ = 20.0
SWAY_BAND_HZ = (0.3, 2.0)


def lane_metrics() -> tuple[Metric, ...]:
    """Against ground truth: lateral error and bend a frame; sway, jitter and responsiveness a drive."""
    lateral = [
        Metric(name=f"lateral_error_{d}m", unit="m", compute=partial(lateral_error, distance_m=d)) for d in (42, 20, 10)
    ]
    bent = Metric(name="bend", unit="px", compute=lambda outputs, batch: bend(_residual(outputs, batch)))
    moving = [
        Metric(name=f"{name}_{d}m", unit="m", over="sequence", compute=partial(_of_residual, measure, d))
        for d in (20, 42)
        for name, measure in (("sway", sway), ("jitter", jitter))
    ]
    following = [
        Metric(name=f"responsiveness_{d}m", unit="1", better="higher", over="sequence", compute=partial(_follows, d))
        for d in (20, 42)
    ]
    return (*lateral, bent, *moving, *following)


def lane_drifts() -> tuple[Drift, ...]:
    """Between two subjects, without labels: the same measures of their difference."""
    lateral = [
        Drift(name=f"displacement_{d}m", unit="m", compute=partial(_displacement, distance_m=d)) for d in (42, 20, 10)
    ]
    bent = Drift(name="displacement_bend", unit="px", compute=lambda reference, other, batch: bend(other - reference))
    moving = [
        Drift(name=f"displacement_{name}_{d}m", unit="m", over="sequence", compute=partial(_of_difference, measure, d))
        for d in (20, 42)
        for name, measure in (("sway", sway), ("jitter", jitter))
    ]
    return (*lateral, bent, *moving)


def lane_symptoms(jump_m: float) -> tuple[Metric, ...]:
    """Of the lines alone, without truth; the road's own motion and curvature are in them, in every subject alike.

    Args:
        jump_m: a line that moves by more from one frame to the next, 20 m ahead, has flipped.
    """
    moving = [
        Metric(name=f"{name}_{d}m", unit="m", over="sequence", compute=partial(_of_line, measure, d))
        for d in (20, 42)
        for name, measure in (("sway", sway), ("jitter", jitter))
    ]
    jumps = Metric(name="flips_20m", unit="1", over="sequence",
                   compute=lambda outputs, _: jump_rate(at(outputs, 20), jump_m))  # fmt: skip
    return (*moving, Metric(name="bend", unit="px", compute=lambda outputs, _: bend(outputs)), jumps)


# --- a frame --------------------------------------------------------------------------------------------


def at(px: Tensor, distance_m: float) -> Tensor:
    """Metres across the road at one of `DISTANCES_M`: pixels of the network's input (..., 12) -> (...)."""
    i = DISTANCES_M.index(distance_m)
    return px[..., i] * METRES_PER_PX[i]


def lateral_error(outputs: Tensor, batch: Batch, *, distance_m: float) -> Tensor:
    """Mean distance of the two lines from the truth across the road, metres (B,); NaN where no line is in view."""
    return at(_residual(outputs, batch), distance_m).abs().nanmean(dim=1)


def bend(residual_px: Tensor) -> Tensor:
    """RMS second difference over neighbouring `DISTANCES_M`: (B, 2, 12) -> (B,), pixels of the network's input.

    A line that is shifted or turned in the image keeps its shape; one that is bent does not.
    """
    return residual_px.diff(n=2, dim=-1).square().nanmean(dim=(1, 2)).sqrt()


def _residual(outputs: Tensor, batch: Batch) -> Tensor:
    return torch.where(batch["valid"], outputs - batch["line_px"], torch.nan)


def _displacement(reference: Tensor, other: Tensor, batch: Batch, *, distance_m: float) -> Tensor:
    return at(other - reference, distance_m).abs().mean(dim=1)


# --- a drive --------------------------------------------------------------------------------------------

Movement = Callable[[Tensor], Tensor]


def _of_residual(measure: Movement, distance_m: float, outputs: Tensor, batch: Batch) -> Tensor:
    # The true motion is taken out first: what the car did is not sway.
    return measure(at(outputs - batch["line_px"], distance_m))


def _of_difference(measure: Movement, distance_m: float, reference: Tensor, other: Tensor, batch: Batch) -> Tensor:
    return measure(at(other - reference, distance_m))


def _of_line(measure: Movement, distance_m: float, outputs: Tensor, batch: Batch) -> Tensor:
    return measure(at(outputs, distance_m))


def sway(residual_m: Tensor) -> Tensor:
    """`band_rms` between 0.3 and 2 Hz of lines (T, lines) at 20 Hz; drives of 6 s hold two periods of the lower end."""
    low_hz, high_hz = SWAY_BAND_HZ
    return band_rms(residual_m, rate_hz=RATE_HZ, low_hz=low_hz, high_hz=high_hz)


def _follows(distance_m: float, outputs: Tensor, batch: Batch) -> Tensor:
    return responsiveness(at(outputs, distance_m), at(batch["line_px"], distance_m))
