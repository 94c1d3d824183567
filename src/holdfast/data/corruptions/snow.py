"""Snow driven by the wind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from holdfast.data.colour import grey
from holdfast.data.corruptions.draws import Draws
from holdfast.data.corruptions.motion import motion_blurred
from holdfast.data.corruptions.published import Table
from holdfast.data.corruptions.zoom import zoomed

__all__ = ["Snow"]


@dataclass(frozen=True, kw_only=True)
class Snow:
    """Add streaks of snow, and the same turned by 180 degrees, to a paler image.

    Flakes are zoomed noise above a threshold; they streak at an angle from -135 to -45 degrees.

    Args:
        table: published parameters, see `holdfast.data.corruptions.published.Table`.

    Source: Hendrycks and Dietterich, ICLR 2019.
    """

    family: ClassVar[str] = "weather"
    moves_pixels: ClassVar[bool] = False
    severities: ClassVar[tuple[int, ...]] = (1, 2, 3, 4, 5)
    table: Table = "imagenet"

    FLAKES: ClassVar[Mapping[Table, tuple[tuple[float, float, float, float, int, float, float], ...]]] = {
        "imagenet": (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
        "cifar": (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
    }  # fmt: skip
    """Mean and deviation of the flakes, zoom, threshold, radius and sigma of the streaks in px, share of the image."""

    def corrupt(self, image: Tensor, severity: int, draws: Draws) -> Tensor:
        """The snowy images; see `holdfast.core.contracts.Corruption`."""
        mean, deviation, zoom, threshold, radius, sigma, share = self.FLAKES[self.table][severity - 1]
        flakes = zoomed(draws.normal(1, *image.shape[2:]).to(image) * deviation + mean, zoom)
        flakes = torch.where(flakes < threshold, 0.0, flakes).clamp_(0, 1).mul_(255).floor_()
        flakes = motion_blurred(flakes, radius, sigma, draws.uniform(-135, -45))
        pale = torch.maximum(image, grey(image) * 1.5 + 127.5)
        return torch.lerp(pale, image, share) + flakes + flakes.flip(2, 3)
