"""The sensor: bits cut off, read noise, a colour filter, a lens out of focus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from holdfast.data.camera import Demosaic
from holdfast.data.corruptions.draws import Draws
from holdfast.data.corruptions.filters import gaussian

__all__ = ["Sensor"]


@dataclass(frozen=True, kw_only=True)
class Sensor:
    """Another camera, ever worse. Read noise is drawn afresh for every sample.

    1: ten bits cut to eight instead of rounded: three values in eight lose a level. 2: read noise of 1 grey level.
    3: of 2 levels. 4: an RGGB filter, bilinear demosaicing and noise of 2 levels. 5: the same, out of focus by sigma
    0.7 px, with noise of 4 levels.
    """

    family: ClassVar[str] = "deploy"
    moves_pixels: ClassVar[bool] = False
    severities: ClassVar[tuple[int, ...]] = (1, 2, 3, 4, 5)

    READ_NOISE: ClassVar[tuple[float, ...]] = (0.0, 1.0, 2.0, 2.0, 4.0)

    def corrupt(self, image: Tensor, severity: int, draws: Draws) -> Tensor:
        """The images of that sensor; see `holdfast.core.contracts.Corruption`."""
        if severity == 1:
            return image - (draws.uniform(0, 1, *image.shape[1:]) < 3 / 8).to(image)
        if severity == 5:
            image = gaussian(image, 0.7)
        image = image + self.READ_NOISE[severity - 1] * draws.normal(*image.shape[1:]).to(image)
        return Demosaic()(image) if severity >= 4 else image
