"""Bytes divided by 256 instead of 255."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from holdfast.explain_drift.cause import Leaves, Pair, Tiles

__all__ = ["Divisor"]


@dataclass(frozen=True, kw_only=True)
class Divisor:
    """Grey levels multiplied by ``255/256`` (vehicle divides by 256) or ``256/255`` (training does)."""

    family: ClassVar[str] = "divisor"
    hides: ClassVar[tuple[str, ...]] = ()
    stage: ClassVar[int] = 8
    cost: ClassVar[float] = 0.15
    leaves: ClassVar[Leaves] = "nothing"
    factor: float = 255 / 256

    @property
    def name(self) -> str:
        """Which side divides by 256."""
        return "divided_by_256" if self.factor < 1 else "divided_by_255_not_256"

    @property
    def detail(self) -> str:
        """Both divisors."""
        vehicle, training = (256, 255) if self.factor < 1 else (255, 256)
        return f"divided by {vehicle} where training divides by {training}"

    def apply(self, tiles: Tiles) -> Tensor:
        """The scaled levels."""
        return tiles.pixels * self.factor

    def undo(self, tiles: Tiles) -> Tensor:
        """The levels before."""
        return tiles.pixels / self.factor

    @classmethod
    def propose(cls, pair: Pair) -> list[Divisor]:
        """Both directions."""
        return [cls(factor=255 / 256), cls(factor=256 / 255)]
