"""Limited-range YCbCr taken for full range, or the reverse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from holdfast.explain_drift.cause import Leaves, Pair, Tiles
from holdfast.explain_drift.ycbcr import LinearColour, decode, encode

__all__ = ["ColourRange"]


@dataclass(frozen=True, kw_only=True)
class ColourRange:
    """Video levels (luma 16..235, chroma 16..240) decoded as 0..255, or the reverse."""

    family: ClassVar[str] = "colour_range"
    hides: ClassVar[tuple[str, ...]] = ()
    stage: ClassVar[int] = 2
    cost: ClassVar[float] = 0.15
    leaves: ClassVar[Leaves] = "nothing"
    encoded: Literal["limited", "full"] = "limited"
    decoded: Literal["limited", "full"] = "full"

    @property
    def name(self) -> str:
        """The two ranges."""
        return f"{self.encoded}_decoded_as_{self.decoded}"

    @property
    def detail(self) -> str:
        """The two ranges in words."""
        return f"YCbCr of {self.encoded} range decoded as {self.decoded} range"

    def apply(self, tiles: Tiles) -> Tensor:
        """Encode in one range, decode in the other."""
        return self._change(tiles.pixels.shape[1]).apply(tiles.pixels)

    def undo(self, tiles: Tiles) -> Tensor:
        """The inverse."""
        return self._change(tiles.pixels.shape[1]).undo(tiles.pixels)

    def _change(self, channels: int) -> LinearColour:
        matrix = "bt601" if channels == 3 else "luma"
        return encode(matrix, self.encoded).then(decode(matrix, self.decoded))

    @classmethod
    def propose(cls, pair: Pair) -> list[ColourRange]:
        """Both directions."""
        if pair.before.pixels.shape[1] not in (1, 3):
            return []
        return [cls(encoded="limited", decoded="full"), cls(encoded="full", decoded="limited")]
