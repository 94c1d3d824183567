"""Motion blur along a line at a random angle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from holdfast.data.corruptions.draws import Draws
from holdfast.data.corruptions.motion import motion_blurred
from holdfast.data.corruptions.published import Table

__all__ = ["MotionBlur"]


@dataclass(frozen=True, kw_only=True)
class MotionBlur:
    """Blur along a line at an angle drawn from -45 to 45 degrees for each sample; see `motion_blurred`.

    Args:
        table: published parameters, see `holdfast.data.corruptions.published.Table`.

    Source: Hendrycks and Dietterich, ICLR 2019.
    """

    family: ClassVar[str] = "blur"
    moves_pixels: ClassVar[bool] = False
    severities: ClassVar[tuple[int, ...]] = (1, 2, 3, 4, 5)
    table: Table = "imagenet"

    RADIUS_AND_SIGMA_PX: ClassVar[Mapping[Table, tuple[tuple[int, float], ...]]] = {
        "imagenet": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        "cifar": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    }

    def corrupt(self, image: Tensor, severity: int, draws: Draws) -> Tensor:
        """The blurred images; see `holdfast.core.contracts.Corruption`."""
        radius, sigma = self.RADIUS_AND_SIGMA_PX[self.table][severity - 1]
        return motion_blurred(image, radius, sigma, draws.uniform(-45, 45))
