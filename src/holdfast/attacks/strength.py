"""Breaking strength: the smallest budget at which an attack breaks each sample, by bisection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from holdfast.core.errors import InputError

__all__ = ["Bracket", "narrowed"]


@dataclass(frozen=True, kw_only=True)
class Bracket:
    """What is known of each sample's breaking strength; plain data, so that a bisection can be stopped and resumed.

    Args:
        low: float64 (B,), the largest budget at which the sample held; -1 where it is broken without an attack.
        high: float64 (B,), the smallest at which it broke; infinite where it has not.
        largest: the largest budget that is tried.
        rounds: attacks made so far.
    """

    low: Tensor
    high: Tensor
    largest: float
    rounds: int = 0

    @classmethod
    def opened(cls, clean: Tensor, largest: float) -> Bracket:
        """Before the first attack; ``clean`` says which samples are broken without one, bool (B,).

        Raises:
            InputError: a largest budget that is not positive.
        """
        if not largest > 0:
            raise InputError(f"largest budget {largest} is not positive", where="breaking strength", fix="give one > 0")
        zero = torch.zeros(len(clean), dtype=torch.float64)
        return cls(low=zero - clean.double().cpu(), high=torch.where(clean.cpu(), zero, torch.inf), largest=largest)

    @property
    def open(self) -> Tensor:
        """The samples that a further attack can tell more about, int64 (n,)."""
        return ((self.low >= 0) & (self.low < self.largest)).nonzero().squeeze(1)

    @property
    def tried(self) -> Tensor:
        """The budget to try next, float64 (B,): the largest first, then the middle."""
        return torch.where(self.high.isinf(), self.largest, (self.low + self.high) / 2)

    @property
    def value(self) -> Tensor:
        """The breaking strength, float64 (B,): the smallest budget that broke, or the largest where none did."""
        return self.high.clamp(max=self.largest)

    @property
    def held(self) -> Tensor:
        """Samples that held at the largest budget, bool (B,)."""
        return self.low >= self.largest


def narrowed(bracket: Bracket, attack: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Bracket:
    """One round of bisection.

    Args:
        bracket: what is known.
        attack: ``(rows int64 (n,), eps float (n,)) -> broken bool (n,), used float (n,)``: attacks those samples with
            their own budgets, and says how much of it the perturbations really use.

    A sample is taken to break at every larger budget than one that broke it; an attack that finds less with more is
    itself to be doubted.
    """
    rows = bracket.open
    if not len(rows):
        return replace(bracket, rounds=bracket.rounds + 1)
    eps = bracket.tried[rows]
    broken, used = (found.cpu() for found in attack(rows, eps))
    low, high = bracket.low.clone(), bracket.high.clone()
    high[rows] = torch.where(broken, torch.minimum(eps, used.double()), high[rows])
    low[rows] = torch.where(broken, low[rows], eps)
    return replace(bracket, low=low.minimum(high), high=high, rounds=bracket.rounds + 1)
