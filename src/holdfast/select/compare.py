"""Candidates against a baseline, paired over seeds, with Holm's correction and rules on how many seeds say what."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from holdfast.select.pareto import to_minimise
from holdfast.select.power import seeds_needed
from holdfast.select.stats import Paired, holm, paired_difference
from holdfast.select.table import Candidate, Seed

__all__ = ["WINNER_SEEDS", "Comparison", "Finding", "PairedTests", "paired_over_seeds"]

Finding: TypeAlias = Literal["better", "worse", "not separated", "direction", "shown"]

WINNER_SEEDS = 5
"""Fewer paired seeds than this never make a winner: three or four give a direction, two are shown."""

DIRECTION_SEEDS = 3


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A candidate against another, paired over the seeds that both have.

    Args:
        candidate: whose values come first: differences are ``candidate - against``.
        against: the other side.
        paired: differences, interval and unadjusted p.
        p_adjusted: after Holm; NaN where nothing was tested.
        family: comparisons over which Holm shared the level.
        finding: ``better`` or ``worse`` (tested and separated), ``not separated``, ``direction`` (three or four
            seeds, or a test that is undefined), ``shown`` (one or two seeds).
        needed: seeds that would separate a difference like this one at power 0.8, at least five.
    """

    candidate: Candidate
    against: Candidate
    paired: Paired
    p_adjusted: float
    family: int
    finding: Finding
    needed: int | None = None

    @property
    def seeds(self) -> int:
        """Paired seeds."""
        return self.paired.interval.n


@dataclass(frozen=True, kw_only=True)
class PairedTests:
    """How candidates are compared.

    Args:
        better: direction of the metric, ``lower`` or ``higher``.
        alpha: level, shared out by Holm over the comparisons made in one call.
    """

    better: str
    alpha: float = 0.05

    def against(
        self, baseline: Candidate, values: Mapping[Candidate, Mapping[Seed, float]]
    ) -> dict[Candidate, Comparison]:
        """A comparison of every other candidate that shares a seed with the baseline."""
        reference = values.get(baseline, {})
        pairs = {
            candidate: paired_over_seeds(mine, reference)
            for candidate, mine in values.items()
            if candidate != baseline and mine.keys() & reference.keys()
        }
        adjusted = holm([p.p if p.interval.n >= WINNER_SEEDS else math.nan for p in pairs.values()])
        return {
            candidate: self._comparison(candidate, baseline, paired, p, len(pairs))
            for (candidate, paired), p in zip(pairs.items(), adjusted, strict=True)
        }

    def _comparison(
        self, candidate: Candidate, against: Candidate, paired: Paired, p: float, family: int
    ) -> Comparison:
        finding, needed = self._finding(paired, p), None
        too_few = finding == "direction" and paired.interval.n < WINNER_SEEDS
        if finding == "not separated" or too_few:
            needed = seeds_needed(paired.differences, alpha=self.alpha / family)
            needed = None if needed is None else max(needed, WINNER_SEEDS)
        return Comparison(
            candidate=candidate, against=against, paired=paired, p_adjusted=p, family=family, finding=finding,
            needed=needed,
        )  # fmt: skip

    def _finding(self, paired: Paired, p: float) -> Finding:
        if paired.interval.n < DIRECTION_SEEDS:
            return "shown"
        if math.isnan(p):
            return "direction"
        if p >= self.alpha:
            return "not separated"
        return "better" if to_minimise(paired.estimate, self.better) < 0 else "worse"


def paired_over_seeds(ours: Mapping[Seed, float], theirs: Mapping[Seed, float]) -> Paired:
    """Paired difference ``ours - theirs`` over the seeds that both have."""
    common = sorted(ours.keys() & theirs.keys())
    return paired_difference([ours[seed] for seed in common], [theirs[seed] for seed in common])
