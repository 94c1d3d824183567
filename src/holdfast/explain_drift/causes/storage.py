"""A narrower number format on the vehicle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from holdfast.explain_drift.cause import Leaves, Pair, Tiles

__all__ = ["Storage"]


@dataclass(frozen=True, kw_only=True)
class Storage:
    """Stored values rounded to float16, bfloat16 or a uniform 8-bit grid.

    It is recognised by the stored values themselves (see `holdfast.explain_drift.structure`), so it is given to the
    search and never proposed.

    Args:
        kind: number format.
        step: grid spacing for ``int8``, in stored units.
        gain, offset: per channel, from grey levels to stored values.
    """

    family: ClassVar[str] = "dtype"
    stage: ClassVar[int] = 10
    cost: ClassVar[float] = 0.0
    leaves: ClassVar[Leaves] = "nothing"
    kind: Literal["float16", "bfloat16", "int8"] = "float16"
    step: float = 1.0
    gain: tuple[float, ...] = (1 / 255,)
    offset: tuple[float, ...] = (0.0,)

    @property
    def name(self) -> str:
        """The number format."""
        return f"stored_as_{self.kind}"

    @property
    def detail(self) -> str:
        """The number format in words."""
        return "stored on an 8-bit grid" if self.kind == "int8" else f"stored as {self.kind}"

    @property
    def hides(self) -> tuple[str, ...]:
        """Steps of a grey level and more hide what is smaller."""
        return () if self.kind == "float16" else ("divisor", "rounding")

    def apply(self, tiles: Tiles) -> Tensor:
        """Grey levels as they come back from storage."""
        gain, offset = (tiles.pixels.new_tensor(v)[:, None, None] for v in (self.gain, self.offset))
        stored = tiles.pixels * gain + offset
        if self.kind == "int8":
            stored = (stored / self.step).round() * self.step
        else:
            stored = stored.to(torch.float16 if self.kind == "float16" else torch.bfloat16).float()
        return (stored - offset) / gain

    def undo(self, tiles: Tiles) -> Tensor:
        """What was rounded away stays lost."""
        return tiles.pixels

    @classmethod
    def propose(cls, pair: Pair) -> list[Storage]:
        """Never: storage is a fact, not a guess."""
        return []
