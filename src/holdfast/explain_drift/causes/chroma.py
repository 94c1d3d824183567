"""Chroma at half resolution, and where its samples are thought to sit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from holdfast.data.colour import subsampled_chroma, upsampled_chroma
from holdfast.explain_drift.cause import Leaves, Pair, Tiles
from holdfast.explain_drift.ycbcr import decode, encode

__all__ = ["Chroma"]


@dataclass(frozen=True, kw_only=True)
class Chroma:
    """4:2:0 chroma on the vehicle, or chroma displaced by a siting error.

    Args:
        down: how chroma is halved: ``box`` averages 2 x 2, ``left`` weighs 1 2 1 across around every other column,
            ``drop`` keeps every other sample, ``keep`` leaves it at full resolution.
        up: how it is brought back: repeated, or interpolated from samples sited at block centres or at the left.
        moved_px: horizontal displacement of chroma against luma (siting error).
    """

    family: ClassVar[str] = "chroma"
    hides: ClassVar[tuple[str, ...]] = ()
    stage: ClassVar[int] = 3
    cost: ClassVar[float] = 0.2
    leaves: ClassVar[Leaves] = "nothing"
    down: Literal["box", "left", "drop", "keep"] = "box"
    up: Literal["nearest", "centred", "left"] = "nearest"
    moved_px: float = 0.0

    @property
    def name(self) -> str:
        """How chroma was halved and brought back."""
        return "chroma_siting" if self.down == "keep" else f"chroma_420_{self.down}_{self.up}"

    @property
    def detail(self) -> str:
        """The same in words."""
        if self.down == "keep":
            return f"chroma displaced by {self.moved_px:+.2f} px across (siting error)"
        words = {"box": "2 x 2 means", "left": "left-sited means", "drop": "every other sample"}
        return f"4:2:0 chroma ({words[self.down]}, brought back {self.up})"

    def apply(self, tiles: Tiles) -> Tensor:
        """Luma as it is, chroma halved and brought back, or moved."""
        coded = encode("bt601", "full").raw(tiles.pixels)
        coded[:, 1:] = self._changed(coded[:, 1:])
        return decode("bt601", "full").apply(coded)

    def undo(self, tiles: Tiles) -> Tensor:
        """Lost chroma stays lost."""
        return tiles.pixels

    def _changed(self, chroma: Tensor) -> Tensor:
        if self.down == "keep":
            return _move(chroma, self.moved_px)
        height, width = chroma.shape[-2:]
        return upsampled_chroma(subsampled_chroma(chroma, self.down), self.up)[..., :height, :width]

    @classmethod
    def propose(cls, pair: Pair) -> list[Chroma]:
        """The ways that come nearest in the chroma of a few pieces."""
        if pair.before.pixels.shape[1] != 3:
            return []
        before, after = (encode("bt601", "full").raw(t.pixels[::3])[:, 1:] for t in (pair.before, pair.after))
        ways = [cls(down=down, up=up) for down, up in WAYS]
        ways += [cls(down="keep", moved_px=distance) for distance in (-0.5, 0.5)]
        error = {way: float((way._changed(before) - after).abs()[..., 4:-4, 4:-4].mean()) for way in ways}
        return sorted(ways, key=lambda way: error[way])[:NEAREST]


NEAREST = 3
Down = Literal["box", "left", "drop", "keep"]
Up = Literal["nearest", "centred", "left"]
WAYS: tuple[tuple[Down, Up], ...] = (
    ("box", "nearest"), ("box", "centred"), ("left", "left"), ("left", "centred"),
    ("left", "nearest"), ("drop", "nearest"), ("drop", "left"),
)  # fmt: skip


def _move(chroma: Tensor, distance_px: float) -> Tensor:
    side = 1 if distance_px > 0 else -1
    padded = functional.pad(chroma, (1, 1, 0, 0), mode="replicate")
    neighbour = padded[..., 1 + side : 1 + side + chroma.shape[-1]]
    return torch.lerp(chroma, neighbour, abs(distance_px))
