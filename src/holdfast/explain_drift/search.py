"""Which causes, up to three, turn one recorded tensor into the other."""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace

from torch import Tensor

from holdfast.explain_drift.catalogue import causes as catalogue
from holdfast.explain_drift.cause import Cause, Pair, Tiles
from holdfast.explain_drift.causes.rounding import Rounding
from holdfast.explain_drift.domain import Domain
from holdfast.explain_drift.evidence import Evidence

__all__ = ["Hypothesis", "Search"]

BEAM = 6
CHEAPEST = 0.1
"""No cause of the catalogue costs less, in nats."""
SETBACK = 0.5
"""Nats by which a cause may make the score worse before it is not built on."""


@dataclass(frozen=True)
class Hypothesis:
    """Causes in the order of their stages, with the score of what they leave unexplained plus their costs.

    ``limit`` is the score from which on it is not built on.
    """

    causes: tuple[Cause, ...]
    score: float
    limit: float = math.inf

    @property
    def families(self) -> frozenset[str]:
        """The classes of the causes."""
        return frozenset(cause.family for cause in self.causes)

    @property
    def price(self) -> float:
        """Evidence that the causes had to bring."""
        return sum(cause.cost for cause in self.causes)


@dataclass(frozen=True, kw_only=True)
class Search:
    """A beam search over sets of causes: every step adds one cause, fitted to what the others leave.

    Args:
        before, observed: the same pieces of both sides, in grey levels of ``domain``.
        domain: the training side's normalisation.
        evidence: judges predictions.
        given: causes that are known beforehand and refitted, not chosen.
        whole: of each side, whether it was recorded in whole grey levels.
    """

    before: Tiles
    observed: Tiles
    domain: Domain
    evidence: Evidence
    given: tuple[Cause, ...] = ()
    whole: tuple[bool, bool] = (False, False)

    def run(self, depth: int) -> list[Hypothesis]:
        """Every hypothesis that was judged, best first, with at most ``depth`` causes besides the given ones.

        It ends early when a further cause brought nothing, and builds neither on what no further cause could save nor
        on causes that made matters worse.
        """
        beam = self._start()
        judged = list(beam)
        for _ in range(depth):
            best = min(judged, key=lambda hypothesis: hypothesis.score)
            worthwhile = best.score - self.evidence.floor - CHEAPEST
            promising = [old for old in beam if old.price < worthwhile and old.score < old.limit]
            grown = [new for old in promising for new in self._grow(old)]
            asked = {old.causes for old in promising}
            beam = [self._refit(new, asked) for new in _distinct(grown)[:BEAM]]
            judged += [*beam, *grown]
            if min((new.score for new in beam), default=math.inf) >= best.score:
                break
        return _distinct(judged)

    def _start(self) -> list[Hypothesis]:
        """The given causes as they are, and with each of them in every way that its family proposes."""
        ways = [self.judge(self.given)]
        for cause in self.given:
            others = tuple(other for other in self.given if other is not cause)
            pair = self._pair(others, cause.stage)
            ways += [self._refit(self.judge((*others, again))) for again in type(cause).propose(pair)]
        return _distinct(ways)

    def judge(self, causes: Sequence[Cause], begun: Tiles | None = None, stage: float = -math.inf) -> Hypothesis:
        """A hypothesis with its score; ``begun`` are the tiles to which causes before ``stage`` are applied already."""
        ordered = tuple(sorted(causes, key=lambda cause: cause.stage))
        predicted = self._apply(begun or self.before, ordered, stage, math.inf)
        score = self.evidence.score(predicted, {cause.leaves for cause in ordered})
        found = Hypothesis(ordered, 0.0)
        return replace(found, score=score + found.price)

    def predicted(self, causes: Sequence[Cause]) -> Tensor:
        """The observed pixels as ``causes``, in order of stages, make them of the training side."""
        return self._apply(self.before, causes, -math.inf, math.inf)

    def _apply(self, tiles: Tiles, causes: Sequence[Cause], start: float, stop: float) -> Tensor:
        """Pixels after the causes of stages ``start <= stage < stop``, rounded at their stage where bytes are sent."""
        rounding = Rounding.stage if self.whole[1] and start <= Rounding.stage < stop else None
        for cause in causes:
            if not start <= cause.stage < stop:
                continue
            if rounding is not None and cause.stage >= rounding:
                tiles, rounding = tiles.with_pixels(tiles.pixels.round()), None
            tiles = tiles.with_pixels(cause.apply(tiles))
        return tiles.pixels if rounding is None else tiles.pixels.round()

    def _grow(self, old: Hypothesis) -> list[Hypothesis]:
        grown = []
        pairs: dict[tuple[bool, ...], Pair] = {}
        for kind in catalogue():
            if kind.family not in old.families:
                # Families between the same causes are asked about the same pair.
                place = tuple(stage < kind.stage for stage in (Rounding.stage, *(cause.stage for cause in old.causes)))
                if place not in pairs:
                    pairs[place] = self._pair(old.causes, kind.stage)
                pair = pairs[place]
                grown += [self.judge((*old.causes, c), pair.before, kind.stage) for c in kind.propose(pair)]
        return [replace(new, limit=old.score + SETBACK) for new in grown]

    def _pair(self, causes: Sequence[Cause], stage: int) -> Pair:
        """What a family of this stage is to explain, given other causes."""
        before = self.before.with_pixels(self._apply(self.before, causes, -math.inf, stage))
        after = self.observed
        for cause in reversed([cause for cause in causes if cause.stage > stage]):
            after = after.with_pixels(cause.undo(after))
        return Pair(before=before, after=after, domain=self.domain, whole=self.whole)

    def _refit(self, found: Hypothesis, asked: Set[tuple[Cause, ...]] = frozenset()) -> Hypothesis:
        """Fit every cause once more, now that all the others are there; beside those ``asked`` it was fitted last."""
        for cause in found.causes:
            others = tuple(other for other in found.causes if other is not cause)
            if others in asked:
                continue
            pair = self._pair(others, cause.stage)
            for again in type(cause).propose(pair):
                if again.name == cause.name and again != cause:
                    candidate = self.judge((*others, again), pair.before, cause.stage)
                    found = min(found, replace(candidate, limit=found.limit), key=lambda hypothesis: hypothesis.score)
        return found


def _distinct(hypotheses: Sequence[Hypothesis]) -> list[Hypothesis]:
    """Best first, one of each set of names."""
    best: dict[frozenset[str], Hypothesis] = {}
    for hypothesis in sorted(hypotheses, key=lambda h: h.score):
        best.setdefault(frozenset(cause.name for cause in hypothesis.causes), hypothesis)
    return list(best.values())
