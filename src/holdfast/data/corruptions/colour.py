"""Colour conversion on the way to the vehicle: from a rounding to channels in the wrong order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from holdfast.data.colour import SwapChannels, YCbCr
from holdfast.data.corruptions.draws import Draws
from holdfast.data.preprocess import ImageStep

__all__ = ["Colour"]


@dataclass(frozen=True, kw_only=True)
class Colour:
    """A round trip through 8-bit YCbCr at full resolution, ever more wrong.

    1: BT.601 full range and back. 2: BT.601 limited range and back. 3: encoded by BT.601, decoded by BT.709.
    4: encoded in limited range, decoded as full. 5: blue for red (BGR). Images without three channels stay, but for 5.
    """

    family: ClassVar[str] = "deploy"
    moves_pixels: ClassVar[bool] = False
    severities: ClassVar[tuple[int, ...]] = (1, 2, 3, 4, 5)

    LADDER: ClassVar[tuple[tuple[ImageStep, ...], ...]] = (
        (YCbCr(encoded="bt601 full", decoded="bt601 full"),),
        (YCbCr(),),
        (YCbCr(decoded="bt709 limited"),),
        (YCbCr(decoded="bt601 full"),),
        (SwapChannels(),),
    )

    def corrupt(self, image: Tensor, severity: int, draws: Draws) -> Tensor:
        """The images as the vehicle sees them; see `holdfast.core.contracts.Corruption`."""
        for step in self.LADDER[severity - 1]:
            image = step(image)
        return image
