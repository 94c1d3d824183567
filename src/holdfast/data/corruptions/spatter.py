"""Spatter: water or mud on the lens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from holdfast.data.colour import grey
from holdfast.data.corruptions.draws import Draws
from holdfast.data.corruptions.filters import gaussian
from holdfast.data.corruptions.published import Table
from holdfast.data.corruptions.rims import rim_light

__all__ = ["Spatter"]

WATER, MUD = (175.0, 238.0, 238.0), (63.0, 42.0, 20.0)


@dataclass(frozen=True, kw_only=True)
class Spatter:
    """Water at severities 1 to 3: pale turquoise drops, lit at their rims. Mud at 4 and 5: brown blots.

    Drops are where smoothed noise exceeds a threshold. Their light comes from the distance to their rims.

    Args:
        table: published parameters, see `holdfast.data.corruptions.published.Table`.

    Source: Hendrycks and Dietterich, ICLR 2019.
    """

    family: ClassVar[str] = "extra"
    moves_pixels: ClassVar[bool] = False
    severities: ClassVar[tuple[int, ...]] = (1, 2, 3, 4, 5)
    table: Table = "imagenet"

    DROPS: ClassVar[Mapping[Table, tuple[tuple[float, float, float, float, float, bool], ...]]] = {
        "imagenet": (
            (0.65, 0.3, 4, 0.69, 0.6, False),
            (0.65, 0.3, 3, 0.68, 0.6, False),
            (0.65, 0.3, 2, 0.68, 0.5, False),
            (0.65, 0.3, 1, 0.65, 1.5, True),
            (0.67, 0.4, 1, 0.65, 1.5, True),
        ),
        "cifar": (
            (0.62, 0.1, 0.7, 0.7, 0.5, False),
            (0.65, 0.1, 0.8, 0.7, 0.5, False),
            (0.65, 0.3, 1, 0.69, 0.5, False),
            (0.65, 0.1, 0.7, 0.69, 0.6, True),
            (0.65, 0.1, 0.5, 0.68, 0.6, True),
        ),
    }  # fmt: skip
    """Mean, deviation and sigma in px of the noise, threshold, strength of water or sigma of mud, is it mud."""

    def corrupt(self, image: Tensor, severity: int, draws: Draws) -> Tensor:
        """The spattered images; see `holdfast.core.contracts.Corruption`."""
        mean, deviation, sigma, threshold, strength, mud = self.DROPS[self.table][severity - 1]
        noise = draws.normal(*image.shape[2:]).to(image.device) * deviation + mean
        drops = gaussian(noise, sigma)
        drops = torch.where(drops < threshold, 0.0, drops)
        if mud:
            cover = gaussian((drops > threshold).float(), strength)[:, None].to(image)
            cover = torch.where(cover < 0.8, 0.0, cover)
            return image * (1 - cover) + cover * _colour(MUD, image)
        drops = (drops * 255).floor().clamp(0, 255)
        light = drops * rim_light(drops)
        light = strength * light / light.amax((1, 2), keepdim=True).clamp(min=1e-6)
        return image + light[:, None].to(image) * _colour(WATER, image)


def _colour(rgb: tuple[float, float, float], image: Tensor) -> Tensor:
    """A colour as (3, 1, 1), or its grey where the image has other channels."""
    colour = torch.tensor(rgb).to(image).view(1, 3, 1, 1)
    return colour if image.shape[1] == 3 else grey(colour)
