"""Where pixels come from: sub-pixel shifts, a camera that is turned, and lens distortion."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

__all__ = ["LensError", "Roll", "Shift", "Yaw", "sampled"]

GRID_BORDER = {"mirror": ("reflection", True), "symmetric": ("reflection", False), "edge": ("border", True)}


def sampled(image: Tensor, x: Tensor, y: Tensor, *, border: Literal["mirror", "symmetric", "edge"] = "edge") -> Tensor:
    """The image at places between pixels, linearly interpolated.

    Args:
        image: float32 (B, C, H, W).
        x: columns, broadcastable to (B, H', W'), the first pixel's centre at 0.
        y: rows likewise.
        border: what stands outside, see `holdfast.data.corruptions.filters.Border`.
    """
    height, width = image.shape[-2:]
    padding, corners = GRID_BORDER[border]
    if corners:
        x, y = 2 * x / max(1, width - 1) - 1, 2 * y / max(1, height - 1) - 1
    else:
        x, y = (2 * x + 1) / width - 1, (2 * y + 1) / height - 1
    grid = torch.stack((x + 0 * y, y + 0 * x), dim=-1).to(image)
    grid = grid if grid.ndim == 4 else grid.expand(len(image), *grid.shape)
    return grid_sample(image, grid, mode="bilinear", padding_mode=padding, align_corners=corners)


@dataclass(frozen=True, kw_only=True)
class Shift:
    """The scene moves by a part of a pixel, or by more; the edge is repeated.

    Args:
        right_px: to the right.
        down_px: downwards.
    """

    name: ClassVar[str] = "geometry"
    right_px: float = 0.5
    down_px: float = 0.0

    def __call__(self, image: Tensor) -> Tensor:
        """The moved image."""
        x, y = _places(image)
        return sampled(image, x - self.right_px, y - self.down_px)


@dataclass(frozen=True, kw_only=True)
class Roll:
    """The camera is turned about its axis.

    Args:
        degrees: clockwise, as the scene turns in the image.
    """

    name: ClassVar[str] = "geometry"
    degrees: float = 0.1

    def __call__(self, image: Tensor) -> Tensor:
        """The turned image."""
        x, y, middle_x, middle_y = _from_middle(image)
        cos, sin = math.cos(math.radians(self.degrees)), math.sin(math.radians(self.degrees))
        return sampled(image, middle_x + cos * x + sin * y, middle_y - sin * x + cos * y)


@dataclass(frozen=True, kw_only=True)
class Yaw:
    """The camera looks to one side of where calibration says it looks.

    A pinhole turned by ``a`` sees at ``u`` (from the middle, in focal lengths) what stood at
    ``(u + tan a) / (1 - u tan a)``, and rows grow by the same perspective.

    Args:
        degrees: to the right: the scene moves to the left.
        field_of_view_deg: across the whole width.
    """

    name: ClassVar[str] = "geometry"
    degrees: float = 0.2
    field_of_view_deg: float = 60.0

    def __call__(self, image: Tensor) -> Tensor:
        """The image of the turned camera."""
        x, y, middle_x, middle_y = _from_middle(image)
        focal_px = image.shape[-1] / 2 / math.tan(math.radians(self.field_of_view_deg / 2))
        turn = math.radians(self.degrees)
        depth = math.cos(turn) - x / focal_px * math.sin(turn)
        sideways = (x * math.cos(turn) + focal_px * math.sin(turn)) / depth
        return sampled(image, middle_x + sideways, middle_y + y / depth)


@dataclass(frozen=True, kw_only=True)
class LensError:
    """The lens is rectified with a radial coefficient that is a little wrong: ``r' = r (1 + k1 r^2)``.

    Args:
        k1: error of the first radial coefficient; ``r`` is 1 at half the diagonal.
    """

    name: ClassVar[str] = "geometry"
    k1: float = 0.01

    def __call__(self, image: Tensor) -> Tensor:
        """The image, wrongly rectified."""
        x, y, middle_x, middle_y = _from_middle(image)
        factor = 1 + self.k1 * (x**2 + y**2) / (middle_x**2 + middle_y**2)
        return sampled(image, middle_x + factor * x, middle_y + factor * y)


def _places(image: Tensor) -> tuple[Tensor, Tensor]:
    height, width = image.shape[-2:]
    return torch.arange(width, device=image.device).float(), torch.arange(height, device=image.device).float()[:, None]


def _from_middle(image: Tensor) -> tuple[Tensor, Tensor, float, float]:
    x, y = _places(image)
    middle_x, middle_y = (image.shape[-1] - 1) / 2, (image.shape[-2] - 1) / 2
    return x - middle_x, y - middle_y, middle_x, middle_y
