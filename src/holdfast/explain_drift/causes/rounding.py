"""Fractions of a grey level: rounded, cut off or kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, TypeAlias

from torch import Tensor

from holdfast.explain_drift.cause import Leaves, Pair, Tiles

__all__ = ["Rounding"]

Habit: TypeAlias = Literal["rounds", "truncates", "fractions"]


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """One side rounds to whole grey levels where the other cuts off or keeps fractions.

    Args:
        vehicle: what the vehicle does: ``truncates`` or ``rounds`` or keeps ``fractions``.
        training: what training does.
        alone: nothing larger than half a grey level is left beside it.
    """

    family: ClassVar[str] = "rounding"
    hides: ClassVar[tuple[str, ...]] = ()
    stage: ClassVar[int] = 7
    cost: ClassVar[float] = 0.2
    vehicle: Habit = "truncates"
    training: Habit = "rounds"
    alone: bool = False

    @property
    def name(self) -> str:
        """Both sides."""
        return f"vehicle_{self.vehicle}_training_{self.training}"

    @property
    def detail(self) -> str:
        """Both sides in words."""
        words = {"rounds": "rounds to whole grey levels", "truncates": "cuts fractions of a grey level off",
                 "fractions": "keeps fractions of a grey level"}  # fmt: skip
        return f"the vehicle {words[self.vehicle]}, training {words[self.training]}"

    @property
    def leaves(self) -> Leaves:
        """Fractions that training lost cannot be known; those it kept can be rounded."""
        return "rounding" if self.alone and self.training != "fractions" else "nothing"

    def apply(self, tiles: Tiles) -> Tensor:
        """Rounding or truncation where the fractions are there, its mean effect where they are not."""
        if self.training == "fractions":
            return tiles.pixels.round() if self.vehicle == "rounds" else tiles.pixels.floor()
        return tiles.pixels + self._bias()

    def undo(self, tiles: Tiles) -> Tensor:
        """The mean effect taken back."""
        return tiles.pixels - self._bias()

    def _bias(self) -> float:
        lost = {"rounds": 0.0, "fractions": 0.0, "truncates": -0.5}
        return lost[self.vehicle] - lost[self.training]

    @classmethod
    def propose(cls, pair: Pair) -> list[Rounding]:
        """What the number of distinct values on both sides allows."""
        both: dict[tuple[bool, bool], list[tuple[Habit, Habit]]] = {
            (True, True): [("truncates", "rounds"), ("rounds", "truncates")],
            (True, False): [("fractions", "rounds"), ("fractions", "truncates")],
            (False, True): [("rounds", "fractions"), ("truncates", "fractions")],
            (False, False): [],
        }
        found = [cls(vehicle=vehicle, training=training) for vehicle, training in both[pair.whole]]
        return [replace(cause, alone=cause._is_alone(pair)) for cause in found]

    def _is_alone(self, pair: Pair) -> bool:
        """Whether nearly every difference lies within half a grey level of the mean effect, and varies at all."""
        left = pair.after.pixels - pair.before.pixels - self._bias()
        within = float((left.abs() < 0.52).double().mean())
        return within > 0.98 and float(left.abs().mean()) > 0.05 and abs(float(left.mean())) < 0.1
