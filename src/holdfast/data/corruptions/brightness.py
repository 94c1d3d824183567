"""The image is brighter, its hues and saturations as they were."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from holdfast.data.colour import raised
from holdfast.data.corruptions.draws import Draws
from holdfast.data.corruptions.published import Table

__all__ = ["Brightness"]


@dataclass(frozen=True, kw_only=True)
class Brightness:
    """Raise the value of HSV: ``v' = min(v + 255 c, 255)``.

    With hue and saturation fixed, HSV colours are proportional to their value, so ``x' = x v' / v``, ``v`` the largest
    channel; black, which has neither hue nor saturation, becomes grey.

    Args:
        table: published parameters, see `holdfast.data.corruptions.published.Table`.

    Source: Hendrycks and Dietterich, ICLR 2019.
    """

    family: ClassVar[str] = "weather"
    moves_pixels: ClassVar[bool] = False
    severities: ClassVar[tuple[int, ...]] = (1, 2, 3, 4, 5)
    table: Table = "imagenet"

    SHIFT: ClassVar[Mapping[Table, tuple[float, ...]]] = {
        "imagenet": (0.1, 0.2, 0.3, 0.4, 0.5),
        "cifar": (0.05, 0.1, 0.15, 0.2, 0.3),
    }

    def corrupt(self, image: Tensor, severity: int, draws: Draws) -> Tensor:
        """The bright images; see `holdfast.core.contracts.Corruption`."""
        return raised(image, 255 * self.SHIFT[self.table][severity - 1])
