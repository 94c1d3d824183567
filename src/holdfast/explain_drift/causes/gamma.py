"""Another tone curve."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from holdfast.explain_drift.cause import Leaves, Pair, Tiles, block_means

__all__ = ["Gamma"]


@dataclass(frozen=True, kw_only=True)
class Gamma:
    """``255 (v / 255)^gamma`` on grey levels."""

    family: ClassVar[str] = "gamma"
    hides: ClassVar[tuple[str, ...]] = ()
    stage: ClassVar[int] = 0
    cost: ClassVar[float] = 0.25
    leaves: ClassVar[Leaves] = "nothing"
    name: ClassVar[str] = "gamma"
    gamma: float = 1.0

    @property
    def detail(self) -> str:
        """The exponent."""
        return f"tone curve with gamma {self.gamma:.3f}"

    def apply(self, tiles: Tiles) -> Tensor:
        """The curve."""
        return _power(tiles.pixels, self.gamma)

    def undo(self, tiles: Tiles) -> Tensor:
        """The inverse curve."""
        return _power(tiles.pixels, 1 / self.gamma)

    @classmethod
    def propose(cls, pair: Pair) -> list[Gamma]:
        """One exponent, fitted to block means."""
        gamma = _fit((pair.before.pixels / 255).clamp_(1e-3, 1), pair.after.pixels / 255)
        return [cls(gamma=gamma)] if abs(math.log(gamma)) > 0.004 else []


def _power(pixels: Tensor, exponent: float) -> Tensor:
    return (pixels / 255).clamp_(0, 1).pow_(exponent).mul_(255)


def _fit(x: Tensor, y: Tensor) -> float:
    """Least squares of the block means of ``y = x^gamma`` by Gauss-Newton."""
    logarithm, wanted, exponent = x.log(), block_means(y), 1.0
    for _ in range(4):
        predicted = (exponent * logarithm).exp_()
        error, slope = wanted - block_means(predicted), block_means(predicted.mul_(logarithm))
        step = float((error * slope).sum() / (slope * slope).sum().clamp(min=1e-12))
        exponent = min(max(exponent + step, 0.2), 5.0)
        if abs(step) < 1e-4:
            break
    return exponent
