"""Impulse noise: single values turn black or white (salt and pepper)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from holdfast.data.corruptions.draws import Draws
from holdfast.data.corruptions.published import Table

__all__ = ["ImpulseNoise"]


@dataclass(frozen=True, kw_only=True)
class ImpulseNoise:
    """Replace a share ``p`` of all values, half of them by 0 and half by 255.

    Args:
        table: published parameters, see `holdfast.data.corruptions.published.Table`.

    Source: Hendrycks and Dietterich, ICLR 2019.
    """

    family: ClassVar[str] = "noise"
    moves_pixels: ClassVar[bool] = False
    severities: ClassVar[tuple[int, ...]] = (1, 2, 3, 4, 5)
    table: Table = "imagenet"

    SHARE: ClassVar[Mapping[Table, tuple[float, ...]]] = {
        "imagenet": (0.03, 0.06, 0.09, 0.17, 0.27),
        "cifar": (0.01, 0.02, 0.03, 0.05, 0.07),
    }

    def corrupt(self, image: Tensor, severity: int, draws: Draws) -> Tensor:
        """The noisy images; see `holdfast.core.contracts.Corruption`."""
        share = self.SHARE[self.table][severity - 1]
        draw = draws.uniform(0, 1, *image.shape[1:]).to(image.device)
        return image.masked_fill(draw <= share, 0.0).masked_fill_(draw <= share / 2, 255.0)
