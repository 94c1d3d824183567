"""Chroma at half resolution (4:2:0), and where its samples are thought to sit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from holdfast.data.colour import YCbCr
from holdfast.data.corruptions.draws import Draws
from holdfast.data.preprocess import ImageStep

__all__ = ["Chroma"]


@dataclass(frozen=True, kw_only=True)
class Chroma:
    """A round trip through 8-bit BT.601 in limited range, with ever less of the colour.

    1: full resolution. 2: 2x2 means, interpolated from block centres. 3: sited at the left, decoded as centred.
    4: every other sample, repeated. 5: every other sample, decoded as centred. Images without three channels stay.
    """

    family: ClassVar[str] = "deploy"
    moves_pixels: ClassVar[bool] = False
    severities: ClassVar[tuple[int, ...]] = (1, 2, 3, 4, 5)

    LADDER: ClassVar[tuple[tuple[ImageStep, ...], ...]] = (
        (YCbCr(),),
        (YCbCr(down="box"),),
        (YCbCr(down="left"),),
        (YCbCr(down="drop", up="nearest"),),
        (YCbCr(down="drop"),),
    )

    def corrupt(self, image: Tensor, severity: int, draws: Draws) -> Tensor:
        """The images as the vehicle sees them; see `holdfast.core.contracts.Corruption`."""
        for step in self.LADDER[severity - 1]:
            image = step(image)
        return image
