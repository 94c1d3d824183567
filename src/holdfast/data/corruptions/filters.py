"""Gaussian and disk filters with the borders that the published definitions use."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, TypeAlias

import torch
from torch import Tensor

__all__ = ["Border", "disk", "extended", "filtered", "gaussian"]

Border: TypeAlias = Literal["edge", "symmetric", "mirror"]
"""What stands outside: the edge pixel repeated (aa|abc), the image mirrored at its edge (ba|abc) or at the centre of
its edge pixel (cb|abc)."""


def gaussian(image: Tensor, sigma_px: float, *, truncate: float = 4.0, border: Border = "edge") -> Tensor:
    """Gaussian blur with a kernel of radius ``round(truncate sigma)``, along rows and columns one after the other.

    Args:
        image: float (..., H, W).
        sigma_px: standard deviation; 0 changes nothing.
        truncate: where the kernel ends, in standard deviations.
        border: what stands outside.
    """
    radius = int(truncate * sigma_px + 0.5)
    if sigma_px == 0 or radius == 0:
        return image
    for dim in (-2, -1):
        image = _along(image, dim, sigma_px, radius, border)
    return image


def _along(image: Tensor, dim: int, sigma_px: float, radius: int, border: Border) -> Tensor:
    n = image.shape[dim]
    if radius > n // 64:  # a matrix is cheaper than one pass a tap; measured from 32 to 1920 pixels
        matrix: Tensor = _matrix(n, sigma_px, radius, border).to(image)
        return matrix @ image if dim == -2 else (matrix @ image.mT).mT
    weights, wide = _weights(sigma_px, radius).tolist(), extended(image, dim, radius, border)
    total: Tensor = wide.narrow(dim, radius, n) * weights[radius]
    pair = torch.empty_like(total)
    for reach in range(radius, 0, -1):
        torch.add(wide.narrow(dim, radius - reach, n), wide.narrow(dim, radius + reach, n), out=pair)
        total.add_(pair, alpha=weights[radius - reach])
    return total


def _weights(sigma_px: float, radius: int) -> Tensor:
    place = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = (-0.5 * (place / sigma_px) ** 2).exp()
    return weights / weights.sum()


@lru_cache(maxsize=32)
def _matrix(n: int, sigma_px: float, radius: int, border: Border) -> Tensor:
    """The filter along one axis of ``n`` pixels as a matrix, float64 (n, n)."""
    taps = torch.arange(n)[:, None] + torch.arange(-radius, radius + 1)
    matrix = torch.zeros(n, n, dtype=torch.float64)
    weights = _weights(sigma_px, radius).expand(n, -1)
    return matrix.scatter_add_(1, _inside(taps, n, border), weights)


def _inside(index: Tensor, n: int, border: Border) -> Tensor:
    """Which pixel of ``n`` stands at an index that may lie outside."""
    if border == "edge" or n == 1:
        return index.clamp(0, n - 1)
    period = 2 * n if border == "symmetric" else 2 * n - 2
    index = index.remainder(period)
    return torch.where(index < n, index, (2 * n - 1 if border == "symmetric" else 2 * n - 2) - index)


def extended(image: Tensor, dim: int, margin: int, border: Border) -> Tensor:
    """The image with ``margin`` more pixels on both sides along ``dim``."""
    n = image.shape[dim]
    if margin >= n:
        return image.index_select(dim, _inside(torch.arange(-margin, n + margin), n, border).to(image.device))
    if border == "edge":
        first, last = image.narrow(dim, 0, 1), image.narrow(dim, n - 1, 1)
        wide = [margin if d == dim % image.ndim else -1 for d in range(image.ndim)]
        return torch.cat((first.expand(wide), image, last.expand(wide)), dim)
    skip = 1 if border == "mirror" else 0
    before, after = image.narrow(dim, skip, margin), image.narrow(dim, n - margin - skip, margin)
    return torch.cat((before.flip(dim), image, after.flip(dim)), dim)


@lru_cache(maxsize=32)
def disk(radius_px: float, sigma_px: float) -> Tensor:
    """A disk of mass 1, softened by a Gaussian of 3x3 taps (5x5 from a radius above 8), float64 (k, k)."""
    reach, taps = (8, 3) if radius_px <= 8 else (int(radius_px), 5)
    place = torch.arange(-reach, reach + 1, dtype=torch.float64)
    hard = (place[:, None] ** 2 + place**2 <= radius_px**2).double()
    matrix = _matrix(2 * reach + 1, sigma_px, taps // 2, "mirror")
    return matrix @ (hard / hard.sum()) @ matrix.T


def filtered(image: Tensor, kernel: Tensor) -> Tensor:
    """Correlation with a symmetric kernel (k, k), k odd, the image mirrored at its edge pixels; by Fourier transform.

    Args:
        image: float (..., H, W).
        kernel: float, equal to itself turned by 180 degrees.
    """
    radius = kernel.shape[-1] // 2
    wide = extended(extended(image, -2, radius, "mirror"), -1, radius, "mirror")
    size = tuple(_fast_length(n) for n in wide.shape[-2:])
    spectrum = torch.fft.rfft2(wide, s=size).mul_(_spectrum(kernel, size).to(image.device))
    found: Tensor = torch.fft.irfft2(spectrum, s=size)
    height, width = image.shape[-2:]
    return found[..., 2 * radius : 2 * radius + height, 2 * radius : 2 * radius + width]


def _spectrum(kernel: Tensor, size: tuple[int, ...]) -> Tensor:
    found: Tensor = torch.fft.rfft2(kernel, s=size).to(torch.complex64)
    return found


def _fast_length(n: int) -> int:
    """The next length whose only prime factors are 2, 3 and 5."""
    while True:
        rest = n
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return n
        n += 1
