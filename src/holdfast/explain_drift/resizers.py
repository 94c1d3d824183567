"""Resizing from the raw frame in the ways that can be named once that frame is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from holdfast.data.resize import Resize

__all__ = ["RESIZERS"]

Resizer = Callable[[Tensor, tuple[int, int]], Tensor]


def _taps(places: Tensor, n: int, reach: float, weigh: Callable[[Tensor], Tensor]) -> Tensor:
    """Matrix (m, n) float32 that takes samples at ``places`` with weights by distance; rows sum to 1."""
    distance = (places.clamp(0, n - 1)[:, None] - torch.arange(n, dtype=torch.float64)).abs()
    weights = torch.where(distance < reach, weigh(distance), 0.0)
    return (weights / weights.sum(1, keepdim=True)).float()


def _separable(image: Tensor, size: tuple[int, int], matrix: Callable[[int, int], Tensor]) -> Tensor:
    rows, columns = (matrix(n, m) for n, m in zip(image.shape[-2:], size, strict=True))
    return (rows @ image @ columns.T).clamp_(0, 255)


def _lanczos(n: int, m: int) -> Tensor:
    """Lanczos-3 widened by the scale when shrinking, as Pillow does it."""
    scale = max(1.0, n / m)
    centres = (torch.arange(m, dtype=torch.float64) + 0.5) * (n / m) - 0.5
    return _taps(centres, n, 3 * scale, lambda d: torch.sinc(d / scale) * torch.sinc(d / (3 * scale)))


def _asymmetric(n: int, m: int) -> Tensor:
    return _taps(torch.arange(m, dtype=torch.float64) * (n / m), n, 1.0, lambda d: 1 - d)


def _of(kernel: str, antialias: bool = True) -> Resizer:
    # The literal type of the kernel is checked by Resize itself.
    return lambda image, size: Resize(size=size, kernel=kernel, antialias=antialias)(image)  # type: ignore[arg-type] # a name of the table below


def _corners(image: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(image, size, mode="bilinear", align_corners=True)


RESIZERS: Mapping[str, Resizer] = {
    "bilinear with antialiasing (Pillow; torch antialias=True)": _of("bilinear"),
    "bilinear without antialiasing (OpenCV INTER_LINEAR; torch antialias=False)": _of("bilinear", antialias=False),
    "bicubic with antialiasing (Pillow; torch antialias=True)": _of("bicubic"),
    "bicubic without antialiasing (OpenCV INTER_CUBIC; torch antialias=False)": _of("bicubic", antialias=False),
    "area (OpenCV INTER_AREA)": _of("area"),
    "Lanczos-3 with antialiasing (Pillow LANCZOS)": lambda image, size: _separable(image, size, _lanczos),
    "nearest, upper left (OpenCV INTER_NEAREST; torch nearest)": _of("nearest"),
    "nearest, centre (Pillow NEAREST; torch nearest-exact)": _of("nearest_exact"),
    "bilinear on the asymmetric grid (no half-pixel centres)": lambda image, size: _separable(image, size, _asymmetric),
    "bilinear with aligned corners": _corners,
}
"""Ways by name: images (B, C, H, W) float32 in grey levels and (height, width) -> the resized images."""
