"""Large pixels: the image is shrunk and enlarged again without interpolation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from holdfast.data.codec import picture_by_picture
from holdfast.data.corruptions.draws import Draws
from holdfast.data.corruptions.published import Table

__all__ = ["Pixelate"]

BOX = Image.Resampling.BOX
Bytes: TypeAlias = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Pixelate:
    """Shrink to ``int(c n)`` pixels a side and enlarge again, both by Pillow's ``BOX``, in whole grey levels.

    Args:
        table: published parameters, see `holdfast.data.corruptions.published.Table`.

    Source: Hendrycks and Dietterich, ICLR 2019.
    """

    family: ClassVar[str] = "digital"
    moves_pixels: ClassVar[bool] = False
    severities: ClassVar[tuple[int, ...]] = (1, 2, 3, 4, 5)
    table: Table = "imagenet"

    SHARE: ClassVar[Mapping[Table, tuple[float, ...]]] = {
        "imagenet": (0.6, 0.5, 0.4, 0.3, 0.25),
        "cifar": (0.95, 0.9, 0.85, 0.75, 0.65),
    }

    def corrupt(self, image: Tensor, severity: int, draws: Draws) -> Tensor:
        """The coarse images; see `holdfast.core.contracts.Corruption`."""
        return self.corrupt_bytes(image.round().to(torch.uint8), severity).to(image)

    def corrupt_bytes(self, image: Tensor, severity: int) -> Tensor:
        """The same of bytes; see `holdfast.core.contracts.OnBytes`."""
        share, (height, width) = self.SHARE[self.table][severity - 1], image.shape[-2:]
        small = _shrunk(image, max(1, int(width * share)), max(1, int(height * share)))
        rows, columns = _repeated(small.shape[-2], height), _repeated(small.shape[-1], width)
        return torch.from_numpy(_taken(_taken(small, columns, -1), rows, -2)).to(image.device)


def _shrunk(image: Tensor, width: int, height: int) -> Bytes:
    """Bytes (B, C, H, W) shrunk as Pillow's ``BOX`` does it."""
    columns, rows = _pairs(image.shape[-1], width), _pairs(image.shape[-2], height)
    # Pillow rounds after each direction, and 13 begins with the other one in images more than twice as high as wide.
    tall = image.shape[-2] > 1.5 * image.shape[-1]
    if columns is None or rows is None or tall:
        return picture_by_picture(image, lambda picture: picture.resize((width, height), BOX)).cpu().numpy()
    # Two thirds of the time: Pillow multiplies by weights, which are all alike.
    small: Bytes = image.cpu().numpy()
    for axis, (first, last) in ((-1, columns), (-2, rows)):
        small = _mean(_taken(small, first, axis), _taken(small, last, axis))
    return small


@lru_cache
def _pairs(n: int, m: int) -> tuple[np.ndarray, np.ndarray] | None:
    """First and last pixel of each of the ``m`` boxes that ``BOX`` makes of ``n``; None if one holds more."""
    scale = n / m
    centre = (np.arange(m) + 0.5) * scale
    # Pillow's own sums: a centre on an edge belongs to one of two boxes by their rounding errors.
    begin = np.maximum((centre - 0.5 * scale + 0.5).astype(np.int64), 0)
    end = np.minimum((centre + 0.5 * scale + 0.5).astype(np.int64), n)
    pixel = begin[:, None] + np.arange((end - begin).max())
    offset = (pixel - centre[:, None] + 0.5) * (1 / scale)
    inside = (offset > -0.5) & (offset <= 0.5) & (pixel < end[:, None])
    count, first = inside.sum(1), begin + inside.argmax(1)
    return (first, first + count - 1) if count.max() <= 2 else None


@lru_cache
def _repeated(n: int, m: int) -> np.ndarray:
    """Which of ``n`` pixels each of ``m`` pixels repeats when ``BOX`` enlarges: the one whose box holds its centre."""
    centre = (np.arange(m) + 0.5) * (n / m)
    first = centre.astype(np.int64)
    # A centre on an edge belongs to the box before, as far as rounding errors let it: so the same sum decides.
    return np.minimum(first + (first - centre + 0.5 <= -0.5), n - 1)


def _taken(image: Bytes, index: np.ndarray, axis: int) -> Bytes:
    found: Bytes = image.take(index, axis, mode="clip")  # all are inside; to look for others takes a fifth longer
    return found


def _mean(a: Bytes, b: Bytes) -> Bytes:
    """Of bytes, halves rounded up, without a wider type; ``a`` is written over."""
    top = a | b
    a ^= b
    a >>= 1
    top -= a
    return top
