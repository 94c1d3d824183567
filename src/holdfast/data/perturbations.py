"""Sequences of frames that differ by imperceptible steps, in the manner of ImageNet-P and CIFAR-10-P."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from holdfast.core.errors import InputError, nearest
from holdfast.data.colour import raised
from holdfast.data.corruptions.draws import Draws
from holdfast.data.corruptions.motion import motion_blurred

__all__ = ["PERTURBATIONS", "Perturbation", "frames"]

Make = Callable[[Tensor, int, Draws], Tensor]


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """A sequence of frames made of one image.

    Args:
        make: ``(images float (B, C, H, W) in 0..255, t, draws) -> frame t``, which may leave 0..255.
        length: frames.
        against_first: the frames are compared with the first one, not each with the one before (noise has no order).
        moves_pixels: what a target points at moves.
    """

    make: Make
    length: int = 31
    against_first: bool = False
    moves_pixels: bool = False


def frames(image: Tensor, name: str, draws: Draws) -> Iterator[Tensor]:
    """The frames of a perturbation, each float (B, C, H, W) in 0..255.

    Args:
        image: float (B, C, H, W), grey levels 0..255.
        name: of the perturbation.
        draws: of the samples; used in the order of the frames.

    Raises:
        InputError: no such perturbation.
    """
    if name not in PERTURBATIONS:
        raise InputError(f"no perturbation {name!r}", where="perturbations", fix=nearest(name, PERTURBATIONS))
    for t in range(PERTURBATIONS[name].length):
        yield PERTURBATIONS[name].make(image, t, draws).clamp(0, 255)


def _gaussian_noise(image: Tensor, t: int, draws: Draws) -> Tensor:
    return image if t == 0 else image + 255 * 0.02 * draws.normal(*image.shape[1:]).to(image)


def _shot_noise(image: Tensor, t: int, draws: Draws) -> Tensor:
    return image if t == 0 else draws.poisson(image * (700 / 255)).to(image) * (255 / 700)


def _brightness(image: Tensor, t: int, draws: Draws) -> Tensor:
    return raised(image, 255 * 0.015 * (t - 15))


def _motion_blur(image: Tensor, t: int, draws: Draws) -> Tensor:
    return motion_blurred(image, 6, 1.8, torch.full((len(image),), (t - 20.0) * 9))


def _zoom_blur(image: Tensor, t: int, draws: Draws) -> Tensor:
    total = image.clone()
    for k in range(1, t + 1):
        total += _moved(image, scale=1 + 0.004 * k)
    return total / (t + 1)


def _moved(image: Tensor, *, right_px: float = 0.0, degrees: float = 0.0, scale: float = 1.0) -> Tensor:
    """The scene enlarged, turned clockwise and moved about the middle; black comes in from outside."""
    height, width = image.shape[-2:]
    cos, sin = math.cos(math.radians(degrees)) / scale, math.sin(math.radians(degrees)) / scale
    shift = -2 * right_px / width
    rows = [[cos, sin * height / width, shift], [-sin * width / height, cos, 0.0]]
    matrix = image.new_tensor(rows).expand(len(image), -1, -1)
    grid = affine_grid(matrix, list(image.shape), align_corners=False)
    return grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


PERTURBATIONS: Mapping[str, Perturbation] = {
    "gaussian_noise": Perturbation(make=_gaussian_noise, against_first=True),
    "shot_noise": Perturbation(make=_shot_noise, against_first=True),
    "motion_blur": Perturbation(make=_motion_blur, length=21),
    "zoom_blur": Perturbation(make=_zoom_blur),
    "brightness": Perturbation(make=_brightness),
    "translate": Perturbation(make=lambda x, t, _: _moved(x, right_px=t - 7), length=16, moves_pixels=True),
    "rotate": Perturbation(make=lambda x, t, _: _moved(x, degrees=t - 15), moves_pixels=True),
    "scale": Perturbation(make=lambda x, t, _: _moved(x, scale=(70 + 2 * t) / 100), moves_pixels=True),
}
"""Eight of the ten of ImageNet-P by name; snow and tilt are not among them. Noise has its clean image as frame 0."""
