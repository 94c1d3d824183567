"""Affine colour changes: RGB to YCbCr and back, by matrix and range."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from holdfast.data.colour import ycbcr_matrix

__all__ = ["LinearColour", "decode", "encode"]


@dataclass(frozen=True, kw_only=True)
class LinearColour:
    """``v -> matrix v + offset`` along the channels of (K, C, H, W) grey levels."""

    matrix: Tensor
    offset: Tensor

    def then(self, other: LinearColour) -> LinearColour:
        """First this change, then the other."""
        return LinearColour(matrix=other.matrix @ self.matrix, offset=other.matrix @ self.offset + other.offset)

    def apply(self, pixels: Tensor) -> Tensor:
        """The changed pixels, cut off at 0 and 255 as bytes are."""
        return self.raw(pixels).clamp_(0, 255)

    def raw(self, pixels: Tensor) -> Tensor:
        """The changed pixels without any limit."""
        mixed: Tensor = self.matrix.to(pixels) @ pixels.flatten(2) + self.offset.to(pixels)[:, None]
        return mixed.view_as(pixels)

    def undo(self, pixels: Tensor) -> Tensor:
        """The pixels before the change; what was cut off stays lost."""
        inverse = torch.linalg.inv(self.matrix)
        return LinearColour(matrix=inverse, offset=-inverse @ self.offset).raw(pixels)


@cache
def encode(matrix: str, span: str) -> LinearColour:
    """RGB -> YCbCr by ``matrix`` (``bt601``, ``bt709``, or ``luma`` for one channel), ``limited`` or ``full`` range."""
    if matrix == "luma":
        luma, black = (219 / 255, 16.0) if span == "limited" else (1.0, 0.0)
        return LinearColour(matrix=torch.tensor([[luma]]).double(), offset=torch.tensor([black]).double())
    rows, black = ycbcr_matrix(matrix, span)
    return LinearColour(matrix=rows, offset=torch.tensor([black, 128.0, 128.0]).double())


@cache
def decode(matrix: str, span: str) -> LinearColour:
    """YCbCr -> RGB, the inverse of `encode`."""
    forward = encode(matrix, span)
    inverse = torch.linalg.inv(forward.matrix)
    return LinearColour(matrix=inverse, offset=-inverse @ forward.offset)
