"""Another resize kernel than in training, from a rounding to single pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from holdfast.core.errors import InputError
from holdfast.data.corruptions.draws import Draws
from holdfast.data.geometry import sampled
from holdfast.data.preprocess import ImageStep
from holdfast.data.resize import Resize

__all__ = ["Resample"]


@dataclass(frozen=True, kw_only=True)
class Resample:
    """Resize a sensor frame by another kernel than bilinear with antialiasing.

    1: the same, rounded to bytes. 2: means over areas. 3: bilinear without antialiasing. 4: the same on the asymmetric
    grid, which starts at pixel edges. 5: nearest.

    It acts where the frame is resized, so it takes the place of the step ``resize`` of a pipeline; on images that are
    at the network's size already there is nothing left to resample.

    Args:
        size: (height, width) of the network's input; None where a pipeline gives it.

    Raises:
        InputError: no size.
    """

    family: ClassVar[str] = "deploy"
    moves_pixels: ClassVar[bool] = False
    severities: ClassVar[tuple[int, ...]] = (1, 2, 3, 4, 5)
    replaces: ClassVar[str] = "resize"
    size: tuple[int, int] | None = None

    def corrupt(self, image: Tensor, severity: int, draws: Draws) -> Tensor:
        """The images at the network's size; see `holdfast.core.contracts.Corruption`."""
        if self.size is None:
            raise InputError("to which size?", where="corruption resample", fix="give size, or use at: sensor")
        return self.step(severity, self.size)(image)

    def step(self, severity: int, size: tuple[int, int]) -> ImageStep:
        """The step that stands in a pipeline instead of its own."""
        return _Resampled(severity=severity, size=size)


@dataclass(frozen=True, kw_only=True)
class _Resampled:
    name: ClassVar[str] = "resize"
    severity: int = 1
    size: tuple[int, int] = (96, 160)

    def __call__(self, image: Tensor) -> Tensor:
        if self.severity == 1:
            return Resize(size=self.size)(image).round()
        if self.severity == 2:
            return Resize(size=self.size, kernel="area")(image)
        if self.severity == 3:
            return Resize(size=self.size, antialias=False)(image)
        if self.severity == 5:
            return Resize(size=self.size, kernel="nearest_exact")(image)
        y, x = (
            torch.arange(m, device=image.device) * (n / m) for n, m in zip(image.shape[-2:], self.size, strict=True)
        )
        return sampled(image, x, y[:, None])
