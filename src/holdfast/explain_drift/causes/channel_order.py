"""RGB read as BGR."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from holdfast.explain_drift.cause import Leaves, Pair, Tiles

__all__ = ["ChannelOrder"]


@dataclass(frozen=True, kw_only=True)
class ChannelOrder:
    """First and last channel exchanged."""

    family: ClassVar[str] = "channel_order"
    hides: ClassVar[tuple[str, ...]] = ()
    stage: ClassVar[int] = 6
    cost: ClassVar[float] = 0.15
    leaves: ClassVar[Leaves] = "nothing"
    name: ClassVar[str] = "rgb_bgr_swap"
    detail: ClassVar[str] = "channel order RGB against BGR"

    def apply(self, tiles: Tiles) -> Tensor:
        """The swap."""
        return tiles.pixels.flip(1)

    def undo(self, tiles: Tiles) -> Tensor:
        """The swap, which is its own inverse."""
        return tiles.pixels.flip(1)

    @classmethod
    def propose(cls, pair: Pair) -> list[ChannelOrder]:
        """The swap; grey pictures have no order."""
        return [cls()] if pair.before.pixels.shape[1] == 3 else []
