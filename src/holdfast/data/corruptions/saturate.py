"""Colours fade or glare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from holdfast.data.corruptions.draws import Draws
from holdfast.data.corruptions.published import Table

__all__ = ["Saturate"]


@dataclass(frozen=True, kw_only=True)
class Saturate:
    """Change the saturation of HSV: ``s' = clip(a s + b, 0, 1)``, hue and value as they were.

    With hue and value fixed, every channel's distance to the value ``v`` is proportional to the saturation, so
    ``x' = v - (v - x) s' / s``. Grey has no hue; where ``b > 0`` it turns red, as HSV counts a missing hue as red. One
    channel has no colour and stays.

    Args:
        table: published parameters, see `holdfast.data.corruptions.published.Table`.

    Source: Hendrycks and Dietterich, ICLR 2019.
    """

    family: ClassVar[str] = "extra"
    moves_pixels: ClassVar[bool] = False
    severities: ClassVar[tuple[int, ...]] = (1, 2, 3, 4, 5)
    table: Table = "imagenet"

    GAIN_AND_SHIFT: ClassVar[Mapping[Table, tuple[tuple[float, float], ...]]] = {
        "imagenet": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
        "cifar": ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
    }

    def corrupt(self, image: Tensor, severity: int, draws: Draws) -> Tensor:
        """The changed images; see `holdfast.core.contracts.Corruption`."""
        if image.shape[1] == 1:
            return image
        gain, shift = self.GAIN_AND_SHIFT[self.table][severity - 1]
        value, least = image.amax(1, keepdim=True), image.amin(1, keepdim=True)
        span = value - least
        saturation = (span / value.clamp(min=1e-6) * gain + shift).clamp_(0, 1)
        coloured = value - (value - image) * (saturation * value / span.clamp(min=1e-6))
        red = (value * (1 - saturation)).expand_as(image).clone()
        red[:, :1] = value
        return torch.where(span > 0, coloured, red)
