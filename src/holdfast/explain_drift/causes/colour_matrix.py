"""YCbCr encoded with one matrix and decoded with the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from holdfast.explain_drift.cause import Leaves, Pair, Tiles
from holdfast.explain_drift.ycbcr import LinearColour, decode, encode

__all__ = ["ColourMatrix"]


@dataclass(frozen=True, kw_only=True)
class ColourMatrix:
    """BT.601 data decoded with BT.709 weights, or the reverse."""

    family: ClassVar[str] = "colour_matrix"
    hides: ClassVar[tuple[str, ...]] = ()
    stage: ClassVar[int] = 1
    cost: ClassVar[float] = 0.15
    leaves: ClassVar[Leaves] = "nothing"
    encoded: Literal["bt601", "bt709"] = "bt601"
    decoded: Literal["bt601", "bt709"] = "bt709"

    @property
    def name(self) -> str:
        """The two matrices."""
        return f"{self.encoded}_decoded_as_{self.decoded}"

    @property
    def detail(self) -> str:
        """The two matrices in words."""
        return f"YCbCr encoded with {_label(self.encoded)} and decoded with {_label(self.decoded)}"

    def apply(self, tiles: Tiles) -> Tensor:
        """Encode with one, decode with the other."""
        return self._change().apply(tiles.pixels)

    def undo(self, tiles: Tiles) -> Tensor:
        """The inverse."""
        return self._change().undo(tiles.pixels)

    def _change(self) -> LinearColour:
        return encode(self.encoded, "limited").then(decode(self.decoded, "limited"))

    @classmethod
    def propose(cls, pair: Pair) -> list[ColourMatrix]:
        """Both directions; grey pictures have no matrix."""
        if pair.before.pixels.shape[1] != 3:
            return []
        return [cls(encoded="bt601", decoded="bt709"), cls(encoded="bt709", decoded="bt601")]


def _label(matrix: str) -> str:
    return f"BT.{matrix.removeprefix('bt')}"
