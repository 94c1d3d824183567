"""Where pixels come from: sub-pixel shifts, calibration errors, a frame of latency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from holdfast.data.corruptions.draws import Draws
from holdfast.data.geometry import LensError, Roll, Shift, Yaw
from holdfast.data.preprocess import ImageStep

__all__ = ["Geometry"]


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """The camera does not stand, look or bend rays as calibration says; the edge is repeated.

    1: 0.1 px to the right. 2: 0.5 px. 3: 1 px and a roll of 0.1 degrees. 4: a yaw of 0.2 degrees (60 degrees across)
    and k1 off by 0.01. 5: a yaw of 0.5 degrees and 2 px more, one frame late.

    The scene moves in the image and the truth does not move with it: where the target depends on places, that
    displacement is the error of the vehicle, and the metric counts it as such.
    """

    family: ClassVar[str] = "deploy"
    moves_pixels: ClassVar[bool] = True
    severities: ClassVar[tuple[int, ...]] = (1, 2, 3, 4, 5)

    LADDER: ClassVar[tuple[tuple[ImageStep, ...], ...]] = (
        (Shift(right_px=0.1),),
        (Shift(right_px=0.5),),
        (Shift(right_px=1.0), Roll(degrees=0.1)),
        (Yaw(degrees=0.2), LensError(k1=0.01)),
        (Yaw(degrees=0.5), Shift(right_px=-2.0)),
    )

    def corrupt(self, image: Tensor, severity: int, draws: Draws) -> Tensor:
        """The images as the vehicle sees them; see `holdfast.core.contracts.Corruption`."""
        for step in self.LADDER[severity - 1]:
            image = step(image)
        return image
