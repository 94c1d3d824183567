"""Speckle noise: the brighter a value, the stronger its noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from holdfast.data.corruptions.draws import Draws
from holdfast.data.corruptions.published import Table

__all__ = ["SpeckleNoise"]


@dataclass(frozen=True, kw_only=True)
class SpeckleNoise:
    """Multiply noise: ``x' = x + x s n``, ``n ~ N(0, 1)`` for every value.

    Args:
        table: published parameters, see `holdfast.data.corruptions.published.Table`.

    Source: Hendrycks and Dietterich, ICLR 2019.
    """

    family: ClassVar[str] = "extra"
    moves_pixels: ClassVar[bool] = False
    severities: ClassVar[tuple[int, ...]] = (1, 2, 3, 4, 5)
    table: Table = "imagenet"

    SCALE: ClassVar[Mapping[Table, tuple[float, ...]]] = {
        "imagenet": (0.15, 0.2, 0.35, 0.45, 0.6),
        "cifar": (0.06, 0.1, 0.12, 0.16, 0.2),
    }

    def corrupt(self, image: Tensor, severity: int, draws: Draws) -> Tensor:
        """The noisy images; see `holdfast.core.contracts.Corruption`."""
        noise = draws.normal(*image.shape[1:]).to(image)
        return image.addcmul(image, noise, value=self.SCALE[self.table][severity - 1])
