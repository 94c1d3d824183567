"""JPEG compression."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from holdfast.data.codec import JPEG
from holdfast.data.corruptions.draws import Draws
from holdfast.data.corruptions.published import Table

__all__ = ["JPEGCompression"]


@dataclass(frozen=True, kw_only=True)
class JPEGCompression:
    """Encode as a JPEG file of some quality and decode it again, by Pillow, to whole grey levels.

    Chroma has half the resolution. Three channels are a colour image; with any other number each channel is a grey one.

    Args:
        table: published parameters, see `holdfast.data.corruptions.published.Table`.

    Source: Hendrycks and Dietterich, ICLR 2019.
    """

    family: ClassVar[str] = "digital"
    moves_pixels: ClassVar[bool] = False
    severities: ClassVar[tuple[int, ...]] = (1, 2, 3, 4, 5)
    table: Table = "imagenet"

    QUALITY: ClassVar[Mapping[Table, tuple[int, ...]]] = {
        "imagenet": (25, 18, 15, 10, 7),
        "cifar": (80, 65, 58, 50, 40),
    }

    def corrupt(self, image: Tensor, severity: int, draws: Draws) -> Tensor:
        """The decoded images; see `holdfast.core.contracts.Corruption`."""
        return JPEG(quality=self.QUALITY[self.table][severity - 1])(image)

    def corrupt_bytes(self, image: Tensor, severity: int) -> Tensor:
        """The same of bytes; see `holdfast.core.contracts.OnBytes`."""
        return JPEG(quality=self.QUALITY[self.table][severity - 1]).of_bytes(image)
