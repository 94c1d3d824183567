"""Tone: gamma, exposure, white balance, tone curve, vignetting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from holdfast.data.camera import Exposure, SCurve, Vignetting, WhiteBalance
from holdfast.data.corruptions.draws import Draws
from holdfast.data.preprocess import Gamma, ImageStep

__all__ = ["Tone"]


@dataclass(frozen=True, kw_only=True)
class Tone:
    """The vehicle's image processor has its own idea of brightness.

    1: gamma 1.02. 2: gamma 1 / 1.05 and 1/8 EV more light, which add up. 3: red 3 % up, blue 3 % down, and an S-curve.
    4: gamma 1.2. 5: gamma 1.2 and corners 10 % darker. The third changes pixels less than the second, but colours.
    """

    family: ClassVar[str] = "deploy"
    moves_pixels: ClassVar[bool] = False
    severities: ClassVar[tuple[int, ...]] = (1, 2, 3, 4, 5)

    LADDER: ClassVar[tuple[tuple[ImageStep, ...], ...]] = (
        (Gamma(gamma=1.02),),
        (Gamma(gamma=1 / 1.05), Exposure(stops=0.125)),
        (WhiteBalance(), SCurve()),
        (Gamma(gamma=1.2),),
        (Gamma(gamma=1.2), Vignetting()),
    )

    def corrupt(self, image: Tensor, severity: int, draws: Draws) -> Tensor:
        """The images as the vehicle sees them; see `holdfast.core.contracts.Corruption`."""
        for step in self.LADDER[severity - 1]:
            image = step(image)
        return image
