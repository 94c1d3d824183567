"""Resizing in the ways that training code and vehicles do it: with and without antialiasing, float and integer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["IntegerBilinear", "PointSample", "Resize"]


@dataclass(frozen=True, kw_only=True)
class Resize:
    """Resize in floating point with half-pixel centres.

    Args:
        size: (height, width) of the result.
        kernel: ``area`` averages the exact footprint of each output pixel, shares of pixels included.
        antialias: widen the bilinear or bicubic kernel by the scale when shrinking, as PIL does; without it
            (as OpenCV and most vehicle software) fine structures alias. The other kernels ignore it.
    """

    name: ClassVar[str] = "resize"
    size: tuple[int, int] = (96, 160)
    kernel: Literal["bilinear", "bicubic", "area", "nearest", "nearest_exact"] = "bilinear"
    antialias: bool = True

    def __call__(self, image: Tensor) -> Tensor:
        """The resized image; bicubic overshoot is cut off at 0 and 255."""
        if self.kernel == "area":
            rows, columns = (_overlap(n, m).to(image) for n, m in zip(image.shape[-2:], self.size, strict=True))
            return rows @ image @ columns.T
        smooth = self.kernel in ("bilinear", "bicubic")
        resized = functional.interpolate(
            image,
            self.size,
            mode=self.kernel.replace("_", "-"),
            align_corners=False if smooth else None,
            antialias=smooth and self.antialias,
        )
        return resized.clamp_(0, 255) if self.kernel == "bicubic" else resized


def _overlap(n: int, m: int) -> Tensor:
    """Share of each of ``n`` input pixels in each of ``m`` output pixels, float64 (m, n); rows sum to 1."""
    edges = torch.arange(m + 1, dtype=torch.float64) * (n / m)
    pixel = torch.arange(n, dtype=torch.float64)
    covered = torch.minimum(edges[1:, None], pixel + 1) - torch.maximum(edges[:-1, None], pixel)
    return covered.clamp(min=0) * (m / n)


@dataclass(frozen=True, kw_only=True)
class IntegerBilinear:
    """Bilinear resize without antialiasing in fixed-point arithmetic, as an integer resizer does it.

    Each axis has two taps of weights ``w`` and ``2^bits - w`` at half-pixel centres; products are summed exactly
    and rounded once, half up. The input is rounded to whole grey levels first, since such a resizer reads bytes.

    Args:
        size: (height, width) of the result.
        bits: fraction bits of the weights, at most 11 so that sums fit 32 bits.
    """

    name: ClassVar[str] = "resize"
    size: tuple[int, int] = (96, 160)
    bits: int = 11

    def __call__(self, image: Tensor) -> Tensor:
        """Whole grey levels 0..255 as float32."""
        source = image.round().clamp(0, 255).int()
        (top, bottom, v), (left, right, u) = (
            _taps(n, m, self.bits) for n, m in zip(image.shape[-2:], self.size, strict=True)
        )
        one, v = 1 << self.bits, v[:, None]
        tall = source.index_select(-2, top) * (one - v) + source.index_select(-2, bottom) * v
        total = tall.index_select(-1, left) * (one - u) + tall.index_select(-1, right) * u
        return ((total + (1 << (2 * self.bits - 1))) >> (2 * self.bits)).float()


def _taps(n: int, m: int, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """First and second input index and the integer weight of the second, for each of ``m`` outputs."""
    centre = ((torch.arange(m, dtype=torch.float64) + 0.5) * (n / m) - 0.5).clamp(0, n - 1)
    first = centre.floor()
    weight = ((centre - first) * (1 << bits)).round().int()
    return first.int(), (first + 1).clamp(max=n - 1).int(), weight


@dataclass(frozen=True, kw_only=True)
class PointSample:
    """Each output pixel is one input pixel at a random place of its footprint: aliasing without a preferred phase.

    Args:
        size: (height, width) of the result.
        seed: of the pattern of places, which is the same for every image.
    """

    name: ClassVar[str] = "resize"
    size: tuple[int, int] = (96, 160)
    seed: int = 0

    def __call__(self, image: Tensor) -> Tensor:
        """The sampled image."""
        generator = torch.Generator().manual_seed(self.seed)
        places = []
        for axis, (n, m) in enumerate(zip(image.shape[-2:], self.size, strict=True)):
            cell = torch.arange(m).view(-1, 1) if axis == 0 else torch.arange(m)
            phase = torch.rand(self.size, generator=generator)
            places.append(((cell + phase) * (n / m)).long().clamp(max=n - 1).to(image.device))
        return image[..., places[0], places[1]]
