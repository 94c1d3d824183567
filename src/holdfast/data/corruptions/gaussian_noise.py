"""Gaussian noise of one strength on all pixels, as in low light."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from holdfast.data.corruptions.draws import Draws
from holdfast.data.corruptions.published import Table

__all__ = ["GaussianNoise"]


@dataclass(frozen=True, kw_only=True)
class GaussianNoise:
    """Add normal noise: ``x' = x + 255 s n``, ``n ~ N(0, 1)`` for every value.

    Args:
        table: published parameters, see `holdfast.data.corruptions.published.Table`.

    Source: Hendrycks and Dietterich, ICLR 2019.
    """

    family: ClassVar[str] = "noise"
    moves_pixels: ClassVar[bool] = False
    severities: ClassVar[tuple[int, ...]] = (1, 2, 3, 4, 5)
    table: Table = "imagenet"

    SCALE: ClassVar[Mapping[Table, tuple[float, ...]]] = {
        "imagenet": (0.08, 0.12, 0.18, 0.26, 0.38),
        "cifar": (0.04, 0.06, 0.08, 0.09, 0.10),
    }

    def corrupt(self, image: Tensor, severity: int, draws: Draws) -> Tensor:
        """The noisy images; see `holdfast.core.contracts.Corruption`."""
        noise = draws.normal(*image.shape[1:]).to(image)
        return image.add(noise, alpha=255 * self.SCALE[self.table][severity - 1])
