"""Gaussian blur."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from holdfast.data.corruptions.draws import Draws
from holdfast.data.corruptions.filters import gaussian
from holdfast.data.corruptions.published import Table

__all__ = ["GaussianBlur"]


@dataclass(frozen=True, kw_only=True)
class GaussianBlur:
    """Blur by a Gaussian that ends at four standard deviations, edge pixels repeated.

    Args:
        table: published parameters, see `holdfast.data.corruptions.published.Table`.

    Source: Hendrycks and Dietterich, ICLR 2019.
    """

    family: ClassVar[str] = "extra"
    moves_pixels: ClassVar[bool] = False
    severities: ClassVar[tuple[int, ...]] = (1, 2, 3, 4, 5)
    table: Table = "imagenet"

    SIGMA_PX: ClassVar[Mapping[Table, tuple[float, ...]]] = {
        "imagenet": (1, 2, 3, 4, 6),
        "cifar": (0.4, 0.6, 0.7, 0.8, 1),
    }

    def corrupt(self, image: Tensor, severity: int, draws: Draws) -> Tensor:
        """The blurred images; see `holdfast.core.contracts.Corruption`."""
        return gaussian(image, self.SIGMA_PX[self.table][severity - 1])
