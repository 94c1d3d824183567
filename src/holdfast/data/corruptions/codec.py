"""A lossy codec between camera and network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from holdfast.data.codec import JPEG
from holdfast.data.corruptions.draws import Draws
from holdfast.data.preprocess import ImageStep

__all__ = ["Codec"]


@dataclass(frozen=True, kw_only=True)
class Codec:
    """JPEG of falling quality.

    1: quality 95, 4:4:4. 2: 90, 3: 75, 4: 50, 5: 25, all 4:2:0. Video codecs are not at hand in a tensor library;
    on photographs H.264 at CRF 23 and 28 changes pixels about as much as qualities 75 and 50.
    """

    family: ClassVar[str] = "deploy"
    moves_pixels: ClassVar[bool] = False
    severities: ClassVar[tuple[int, ...]] = (1, 2, 3, 4, 5)

    LADDER: ClassVar[tuple[tuple[ImageStep, ...], ...]] = (
        (JPEG(quality=95, chroma="444"),),
        (JPEG(quality=90),),
        (JPEG(quality=75),),
        (JPEG(quality=50),),
        (JPEG(quality=25),),
    )

    def corrupt(self, image: Tensor, severity: int, draws: Draws) -> Tensor:
        """The images as the vehicle sees them; see `holdfast.core.contracts.Corruption`."""
        for step in self.LADDER[severity - 1]:
            image = step(image)
        return image
