"""Defocus: every point becomes a disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from holdfast.data.corruptions.draws import Draws
from holdfast.data.corruptions.filters import disk, filtered
from holdfast.data.corruptions.published import Table

__all__ = ["DefocusBlur"]


@dataclass(frozen=True, kw_only=True)
class DefocusBlur:
    """Filter with a disk of radius r softened by a Gaussian, the image mirrored at its edge pixels.

    Args:
        table: published parameters, see `holdfast.data.corruptions.published.Table`.

    Source: Hendrycks and Dietterich, ICLR 2019.
    """

    family: ClassVar[str] = "blur"
    moves_pixels: ClassVar[bool] = False
    severities: ClassVar[tuple[int, ...]] = (1, 2, 3, 4, 5)
    table: Table = "imagenet"

    RADIUS_AND_SIGMA_PX: ClassVar[Mapping[Table, tuple[tuple[float, float], ...]]] = {
        "imagenet": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        "cifar": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    }

    def corrupt(self, image: Tensor, severity: int, draws: Draws) -> Tensor:
        """The blurred images; see `holdfast.core.contracts.Corruption`."""
        return filtered(image, disk(*self.RADIUS_AND_SIGMA_PX[self.table][severity - 1]))
