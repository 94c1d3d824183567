"""Fog of uneven density."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from holdfast.data.corruptions.draws import Draws
from holdfast.data.corruptions.plasma import plasma
from holdfast.data.corruptions.published import Table

__all__ = ["Fog"]


@dataclass(frozen=True, kw_only=True)
class Fog:
    """Add a plasma fractal and scale back to the image's range.

    Equation: ``x' = (x + 255 c P) m / (m + 255 c)``, ``m`` the maximum of the image.

    Args:
        table: published parameters, see `holdfast.data.corruptions.published.Table`.

    Source: Hendrycks and Dietterich, ICLR 2019.
    """

    family: ClassVar[str] = "weather"
    moves_pixels: ClassVar[bool] = False
    severities: ClassVar[tuple[int, ...]] = (1, 2, 3, 4, 5)
    table: Table = "imagenet"

    DENSITY_AND_DECAY: ClassVar[Mapping[Table, tuple[tuple[float, float], ...]]] = {
        "imagenet": ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
        "cifar": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    }

    def corrupt(self, image: Tensor, severity: int, draws: Draws) -> Tensor:
        """The foggy images; see `holdfast.core.contracts.Corruption`."""
        density, decay = self.DENSITY_AND_DECAY[self.table][severity - 1]
        height, width = image.shape[-2:]
        cloud = plasma(max(height, width), decay, draws)[:, None, :height, :width].to(image)
        brightest = image.amax((1, 2, 3), keepdim=True)
        return (image + 255 * density * cloud) * (brightest / (brightest + 255 * density))
