"""Contrast is lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from holdfast.data.corruptions.draws import Draws
from holdfast.data.corruptions.published import Table

__all__ = ["Contrast"]


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Shrink the distance to each channel's mean: ``x' = m + c (x - m)``.

    Args:
        table: published parameters, see `holdfast.data.corruptions.published.Table`.

    Source: Hendrycks and Dietterich, ICLR 2019.
    """

    family: ClassVar[str] = "digital"
    moves_pixels: ClassVar[bool] = False
    severities: ClassVar[tuple[int, ...]] = (1, 2, 3, 4, 5)
    table: Table = "imagenet"

    GAIN: ClassVar[Mapping[Table, tuple[float, ...]]] = {
        "imagenet": (0.4, 0.3, 0.2, 0.1, 0.05),
        "cifar": (0.75, 0.5, 0.4, 0.3, 0.15),
    }

    def corrupt(self, image: Tensor, severity: int, draws: Draws) -> Tensor:
        """The flat images; see `holdfast.core.contracts.Corruption`."""
        mean = image.mean((2, 3), keepdim=True)
        return torch.lerp(mean, image, self.GAIN[self.table][severity - 1])
