"""Zooming into the middle of an image, as the published definitions do it."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn.functional import interpolate

__all__ = ["zoomed"]


def zoomed(image: Tensor, factor: float) -> Tensor:
    """The middle of the image enlarged to (at least) the size of the image, trimmed centrally to exactly that.

    Each side keeps its middle ``ceil(n / factor)`` pixels and grows to ``round(factor ceil(n / factor))``, linearly
    between the centres of the first and the last pixel.

    Args:
        image: float (B, C, H, W).
        factor: 1 or more.
    """
    if factor == 1:
        return image
    height, width = image.shape[-2:]
    rows, columns = (math.ceil(n / factor) for n in (height, width))
    top, left = (height - rows) // 2, (width - columns) // 2
    middle = image[..., top : top + rows, left : left + columns]
    size = (round(rows * factor), round(columns * factor))
    large = interpolate(middle, size, mode="bilinear", align_corners=True)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return large[..., top : top + height, left : left + width]
