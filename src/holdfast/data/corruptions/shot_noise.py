"""Shot noise: each value is a count of few photons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from holdfast.data.corruptions.draws import Draws
from holdfast.data.corruptions.published import Table

__all__ = ["ShotNoise"]


@dataclass(frozen=True, kw_only=True)
class ShotNoise:
    """Count photons: ``x' = 255 n / c``, ``n ~ Poisson(c x / 255)`` for every value.

    Args:
        table: published parameters, see `holdfast.data.corruptions.published.Table`.

    Source: Hendrycks and Dietterich, ICLR 2019.
    """

    family: ClassVar[str] = "noise"
    moves_pixels: ClassVar[bool] = False
    severities: ClassVar[tuple[int, ...]] = (1, 2, 3, 4, 5)
    table: Table = "imagenet"

    PHOTONS: ClassVar[Mapping[Table, tuple[float, ...]]] = {
        "imagenet": (60, 25, 12, 5, 3),
        "cifar": (500, 250, 100, 75, 50),
    }

    def corrupt(self, image: Tensor, severity: int, draws: Draws) -> Tensor:
        """The noisy images; see `holdfast.core.contracts.Corruption`."""
        white = self.PHOTONS[self.table][severity - 1]
        return draws.poisson(image * (white / 255)).to(image) * (255 / white)
