"""Synthetic roads with exact ground truth: what a forward camera sees of a lane, drawn from a seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Camera", "Scene", "draw_drive", "draw_frames", "ego_lines", "stack"]

LINE_WIDTH_M = 0.12
DASH_M, DASH_PERIOD_M = 4.0, 12.0
SHADOW_PERIOD_M = 60.0
LINES = 4


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A pinhole camera over a flat road, looking along it.

    A point at ``lateral_m`` to the right of the camera, ``distance_m`` ahead on the ground, is seen at
    ``column = width/2 + f lateral/distance`` and ``row = horizon + f height/distance``, in pixel edges (the first
    pixel spans 0..1), with ``f = width / (2 tan(hfov/2))``.

    Args:
        width_px, height_px: sensor size.
        hfov_deg: horizontal field of view.
        height_m: camera above the road.
        horizon: row of the horizon as a share of the height.
    """

    width_px: int = 400
    height_px: int = 240
    hfov_deg: float = 100.0
    height_m: float = 1.5
    horizon: float = 0.36

    @property
    def focal_px(self) -> float:
        """Focal length in pixels."""
        return self.width_px / (2 * math.tan(math.radians(self.hfov_deg) / 2))

    @property
    def horizon_px(self) -> float:
        """Row of the horizon, in pixel edges."""
        return self.horizon * self.height_px

    def row(self, distance_m: Tensor) -> Tensor:
        """Row at which the ground lies at a distance."""
        return self.horizon_px + self.focal_px * self.height_m / distance_m

    def column(self, lateral_m: Tensor, distance_m: Tensor) -> Tensor:
        """Column of a point of the ground."""
        return self.width_px / 2 + self.focal_px * lateral_m / distance_m


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A batch of road scenes; every field is a tensor with the frame as first dimension, float32 unless said.

    Args:
        offset_m, heading, curvature_per_m: the lane centre lies ``offset + heading z + curvature z^2 / 2`` to the
            right of the camera, ``z`` ahead.
        travelled_m: way along the road; moves dashes, texture, shadow.
        lane_width_m: between the centres of neighbouring lines.
        shoulder_m: (B, 2) asphalt beyond the outer lines, left and right: the road's edges do not tell the lane.
        paint: (B, 4, 3) colour of the lines, left to right, in grey levels.
        dashed: (B, 4) 1 where a line is dashed (4 m painted of every 12 m), else 0.
        dash_phase_m: (B, 4).
        seam_m, seam_darkness: (B, 2) lateral position of tar seams from the lane centre; grey levels they take away.
        asphalt, verge, sky: (B, 3) colours.
        light: factor on everything.
        shadow_m, shadow_length_m, shadow_slant, shadow_light: start and length of the shadow that lies across
            every 60 m of road, metres of way per metre of lateral, and what remains of the light in it.
        car_m, car_lane, car_colour: distance of a lead car (infinite: none), its lane (-1, 0, 1), its colour (B, 3).
        grain, noise: standard deviation of the texture of the ground near the car and of the sensor noise, in grey
            levels.
        noise_seed: int64.
    """

    offset_m: Tensor
    heading: Tensor
    curvature_per_m: Tensor
    travelled_m: Tensor
    lane_width_m: Tensor
    shoulder_m: Tensor
    paint: Tensor
    dashed: Tensor
    dash_phase_m: Tensor
    seam_m: Tensor
    seam_darkness: Tensor
    asphalt: Tensor
    verge: Tensor
    sky: Tensor
    light: Tensor
    shadow_m: Tensor
    shadow_length_m: Tensor
    shadow_slant: Tensor
    shadow_light: Tensor
    car_m: Tensor
    car_lane: Tensor
    car_colour: Tensor
    grain: Tensor
    noise: Tensor
    noise_seed: Tensor

    def __len__(self) -> int:
        return len(self.offset_m)

    def __getitem__(self, frames: slice | Tensor) -> Scene:
        """Some of the frames."""
        return Scene(**{f.name: getattr(self, f.name)[frames] for f in fields(self)})

    def centre_m(self, distance_m: Tensor) -> Tensor:
        """Lateral position of the lane centre at distances (n,): (B, n)."""
        offset, heading, curvature = (v[:, None] for v in (self.offset_m, self.heading, self.curvature_per_m))
        return offset + heading * distance_m + 0.5 * curvature * distance_m**2


def stack(scenes: Sequence[Scene]) -> Scene:
    """One batch of several."""
    return Scene(**{f.name: torch.cat([getattr(scene, f.name) for scene in scenes]) for f in fields(Scene)})


def ego_lines(scene: Scene, distance_m: Tensor) -> Tensor:
    """Ground truth: lateral position in metres of the left and right line of the own lane, (B, 2, n)."""
    side = torch.tensor([-0.5, 0.5])[:, None]
    return scene.centre_m(distance_m)[:, None] + side * scene.lane_width_m[:, None, None]


def draw_frames(seeds: Sequence[Sequence[int]]) -> Scene:
    """Random single frames, one a seed; the same seed gives the same frame whatever else is drawn."""
    return _scene([_frame(seed) for seed in seeds])


def draw_drive(seed: Sequence[int], frames: int = 120, rate_hz: float = 20.0) -> Scene:
    """One drive, frame by frame: the car weaves smoothly in its lane while the curvature changes slowly.

    The lane centre at the car moves as a sum of three sines of 0.1 to 0.5 Hz, and the heading follows from it
    (``heading = offset' / speed``), so that the true motion of the lines is smooth and known.
    """
    rng = np.random.default_rng(seed)
    time_s = np.arange(frames) / rate_hz
    speed = rng.uniform(15, 30)
    omega, phase = 2 * np.pi * rng.uniform(0.1, 0.5, 3), rng.uniform(0, 2 * np.pi, 3)
    amplitude = rng.uniform(0.04, 0.12, 3)
    weave = omega * time_s[:, None] + phase
    bends = 2 * np.pi * rng.uniform(0.04, 0.12) * time_s + rng.uniform(0, 2 * np.pi)
    motion: dict[str, np.ndarray] = {
        "offset_m": rng.uniform(-0.2, 0.2) + np.sin(weave) @ amplitude,
        "heading": np.cos(weave) @ (amplitude * omega) / speed,
        "curvature_per_m": rng.uniform(-1 / 400, 1 / 400) + np.sin(bends) / 900,
        "travelled_m": rng.uniform(0, 1000) + speed * time_s,
    }
    still = _surroundings(rng)
    motion["noise_seed"] = rng.integers(2**62, size=frames)
    return _scene([{**still, **{name: values[i] for name, values in motion.items()}} for i in range(frames)])


def _frame(seed: Sequence[int]) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "offset_m": rng.uniform(-0.5, 0.5),
        "heading": rng.uniform(-0.05, 0.05),
        "curvature_per_m": rng.uniform(-1 / 250, 1 / 250),
        "travelled_m": rng.uniform(0, 1000),
        **_surroundings(rng),
        "noise_seed": rng.integers(2**62),
    }


def _scene(frames: Sequence[Mapping[str, Any]]) -> Scene:
    columns = {f.name: np.stack([frame[f.name] for frame in frames]) for f in fields(Scene)}
    kinds = {"noise_seed": torch.int64}
    return Scene(**{name: torch.tensor(v, dtype=kinds.get(name, torch.float32)) for name, v in columns.items()})


def _surroundings(rng: np.random.Generator) -> dict[str, Any]:
    """Everything that stays as it is while the car drives on."""
    yellow = rng.random(LINES) < [0.3, 0.3, 0.0, 0.0]
    paint = rng.uniform(150, 215) * rng.uniform(0.8, 1.0, LINES)
    tint = np.where(yellow[:, None], [1.0, 0.85, 0.35], [1.0, 1.0, 1.0])
    return {
        "lane_width_m": rng.uniform(3.2, 3.8),
        "shoulder_m": rng.uniform(0.3, 3.0, 2),
        "paint": paint[:, None] * tint,
        "dashed": rng.random(LINES) < [0.7, 0.7, 0.7, 0.0],
        "dash_phase_m": rng.uniform(0, DASH_PERIOD_M, LINES),
        "seam_m": rng.uniform(-3, 3, 2),
        "seam_darkness": rng.uniform(10, 35, 2) * (rng.random(2) < 0.6),
        "asphalt": rng.uniform(60, 110) * rng.uniform(0.95, 1.05, 3),
        "verge": rng.uniform([50, 70, 35], [110, 120, 70]),
        "sky": rng.uniform([150, 170, 190], [220, 230, 250]),
        "light": rng.uniform(0.6, 1.15),
        "shadow_m": rng.uniform(0, SHADOW_PERIOD_M),
        "shadow_length_m": rng.uniform(2, 15),
        "shadow_slant": rng.uniform(-1.5, 1.5),
        "shadow_light": rng.uniform(0.5, 0.8) if rng.random() < 0.6 else 1.0,
        "car_m": rng.uniform(14, 60) if rng.random() < 0.5 else math.inf,
        "car_lane": rng.integers(-1, 2),
        "car_colour": rng.uniform(20, 200) * rng.uniform(0.8, 1.0, 3),
        "grain": 10.0,
        "noise": 3.0,
    }
