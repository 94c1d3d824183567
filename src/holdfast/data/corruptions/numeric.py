"""A narrow number format of the network's input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from holdfast.data.corruptions.draws import Draws
from holdfast.data.numeric import NarrowInput
from holdfast.data.preprocess import ImageStep

__all__ = ["Numeric"]


@dataclass(frozen=True, kw_only=True)
class Numeric:
    """Normalise by ImageNet's mean and deviation in a narrow format.

    1: fp16 arithmetic. 2: stored as bf16. 3: stored as int8. There is no 4 and no 5: an int8 network and an overflow in
    fp16 are no damage of an image. Measure those on a back-end, e.g. the subject ``emulated:int8``.
    """

    family: ClassVar[str] = "deploy"
    moves_pixels: ClassVar[bool] = False
    severities: ClassVar[tuple[int, ...]] = (1, 2, 3)

    LADDER: ClassVar[tuple[tuple[ImageStep, ...], ...]] = (
        (NarrowInput(format="fp16"),),
        (NarrowInput(format="bf16"),),
        (NarrowInput(format="int8"),),
    )

    def corrupt(self, image: Tensor, severity: int, draws: Draws) -> Tensor:
        """The images as the vehicle sees them; see `holdfast.core.contracts.Corruption`."""
        for step in self.LADDER[severity - 1]:
            image = step(image)
        return image
