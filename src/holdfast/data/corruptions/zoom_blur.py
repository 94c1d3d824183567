"""Zoom blur: the camera moves towards the scene during the exposure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from holdfast.data.corruptions.draws import Draws
from holdfast.data.corruptions.published import Table
from holdfast.data.corruptions.zoom import zoomed

__all__ = ["ZoomBlur"]


@dataclass(frozen=True, kw_only=True)
class ZoomBlur:
    """The mean of the image and of the image zoomed by each of some factors; see `zoomed`.

    Trimming after the zoom is central, as in the original.

    Args:
        table: published parameters, see `holdfast.data.corruptions.published.Table`.

    Source: Hendrycks and Dietterich, ICLR 2019.
    """

    family: ClassVar[str] = "blur"
    moves_pixels: ClassVar[bool] = False
    severities: ClassVar[tuple[int, ...]] = (1, 2, 3, 4, 5)
    table: Table = "imagenet"

    LAST_AND_STEP: ClassVar[Mapping[Table, tuple[tuple[float, float], ...]]] = {
        "imagenet": ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
        "cifar": ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
    }

    def corrupt(self, image: Tensor, severity: int, draws: Draws) -> Tensor:
        """The blurred images; see `holdfast.core.contracts.Corruption`."""
        # Whether the last factor belongs to the range hangs on its rounding, so the same function must make it.
        factors = np.arange(1, *self.LAST_AND_STEP[self.table][severity - 1])
        total = image.clone()
        for factor in factors.tolist():
            total.add_(zoomed(image, factor))
        return total.div_(len(factors) + 1)
