"""Large pixels: the image is shrunk and enlarged again without interpolation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from holdfast.data.codec import picture_by_picture
from holdfast.data.corruptions.draws import Draws
from holdfast.data.corruptions.published import Table

__all__ = ["Pixelate"]

BOX = Image.Resampling.BOX


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
        size = (max(1, int(width * share)), max(1, int(height * share)))
        rows, columns = _repeated(size[1], height), _repeated(size[0], width)
        small = picture_by_picture(image, lambda picture: picture.resize(size, BOX)).cpu().numpy()
        return torch.from_numpy(small.take(columns, -1).take(rows, -2)).to(image.device)


@lru_cache
def _repeated(n: int, m: int) -> np.ndarray:
    """Which of ``n`` pixels each of ``m`` pixels repeats when ``BOX`` enlarges: the one whose box holds its centre."""
    centre = (np.arange(m) + 0.5) * (n / m)
    first = centre.astype(np.int64)
    # A centre on an edge belongs to the box before, as far as rounding errors let it: so the same sum decides.
    return np.minimum(first + (first - centre + 0.5 <= -0.5), n - 1)
