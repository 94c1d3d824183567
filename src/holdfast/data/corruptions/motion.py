"""Motion blur as ImageMagick defines it, by which the published corruptions were made."""

from __future__ import annotations

import math
from collections import Counter

import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["motion_blurred"]


def motion_blurred(image: Tensor, radius_px: int, sigma_px: float, angle_deg: Tensor) -> Tensor:
    """Blur along a line that begins at each pixel, each sample at its own angle; rounded to whole grey levels.

    Equation: ``x'(p) = round(sum_i k_i x(p + o_i))``, ``i = 0 .. 2 radius``, ``k_i ~ exp(-i^2 / 2 sigma^2)``, sum 1,
    ``o_i = (ceil(i cos a - 1/2), ceil(i sin a - 1/2))`` to the right and down. Edge pixels are repeated outside.

    Args:
        image: float (B, C, H, W), grey levels.
        radius_px: half the length of the line.
        sigma_px: how fast its weights fall.
        angle_deg: (B,), from the positive x axis downwards.
    """
    length = 2 * radius_px + 1
    weights = torch.exp(-(torch.arange(length, dtype=torch.float64) ** 2) / (2 * sigma_px**2))
    share = (weights / weights.sum()).tolist()
    return torch.stack([_along(x, share, math.radians(float(a))) for x, a in zip(image, angle_deg, strict=True)])


def _along(image: Tensor, share: list[float], angle: float) -> Tensor:
    taps: Counter[tuple[int, int]] = Counter()
    for i, weight in enumerate(share):
        taps[math.ceil(i * math.sin(angle) - 0.5), math.ceil(i * math.cos(angle) - 0.5)] += weight  # type: ignore[assignment] # a Counter may count in fractions
    rows, columns = zip(*taps, strict=True)
    top, left = -min(0, *rows), -min(0, *columns)
    wide = pad(image[None], (left, max(0, *columns), top, max(0, *rows)), mode="replicate")[0]
    height, width = image.shape[-2:]
    total = torch.zeros_like(image)
    for (row, column), weight in taps.items():
        total.add_(wide[:, top + row : top + row + height, left + column : left + column + width], alpha=weight)
    return total.add_(0.5).floor_()
