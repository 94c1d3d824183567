"""Rows looked up by what a study asks: the values of one candidate, seed by seed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeAlias

from holdfast.core.config import Study, Where
from holdfast.core.errors import InputError
from holdfast.core.rows import Row
from holdfast.select.stats import Interval, t_interval

__all__ = ["Candidate", "Seed", "Table", "candidates_of"]

Seed: TypeAlias = tuple[int, int]
"""The (init, order) pair of a training: the unit of replication."""

TRAINING = "train"
"""Probe whose rows describe a training itself: they belong to no kind of weights and to no other split."""


@dataclass(frozen=True, order=True)
class Candidate:
    """What selection chooses among: the weights of one kind that a recipe gives.

    Args:
        recipe: name of the recipe.
        weights: ``last``, or the name of an average.
    """

    recipe: str
    weights: str = "last"

    @property
    def name(self) -> str:
        """The recipe, with its average in brackets."""
        return self.recipe if self.weights == "last" else f"{self.recipe} ({self.weights})"


def candidates_of(study: Study) -> tuple[Candidate, ...]:
    """Every recipe with its last weights and its averages, in the order of the study file."""
    return tuple(Candidate(name, weights) for name, recipe in study.recipes.items() for weights in recipe.kinds)


@dataclass(frozen=True)
class _Place:
    """Everything but the seed that tells one row from another."""

    recipe: str
    weights: str
    preprocessing: str
    subject: str
    probe: str
    condition: str
    split: str
    metric: str


class Table:
    """Rows by recipe, weights, subject, pipeline, probe, condition, split, metric and seed.

    Args:
        rows: rows of one study.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = tuple(rows)
        self._places: dict[_Place, list[Row]] = {}
        for row in self.rows:
            self._places.setdefault(_place_of(row), []).append(row)
        self._candidates = tuple(dict.fromkeys(Candidate(row.recipe, row.weights) for row in self.rows))

    def collect(self, where: Where, *, candidate: Candidate, split: str) -> dict[Seed, Row]:
        """Rows by seed; a metric over sequences is found on ``<split>_sequence``. Empty when there are none.

        Raises:
            InputError: two rows answer for the same seed: rows of different settings were mixed.
        """
        for name in (split, f"{split}_sequence"):
            if found := self._places.get(_place_asked(where, candidate, name)):
                return _by_seed(found, where, candidate)
        return {}

    def values(self, where: Where, *, candidate: Candidate, split: str) -> dict[Seed, float]:
        """Finite values by seed, possibly none."""
        found = self.collect(where, candidate=candidate, split=split)
        return {seed: row.value for seed, row in found.items() if math.isfinite(row.value)}

    def across_seeds(self, where: Where, *, candidate: Candidate, split: str, confidence: float = 0.95) -> Interval:
        """Mean and t interval over the seeds of a candidate.

        Raises:
            InputError: no row answers, with what there is instead.
        """
        values = self.values(where, candidate=candidate, split=split)
        if not values:
            raise InputError(
                f"no rows for {candidate.name} on {split!r}: {describe(where)}",
                where="rows",
                fix=self.instead_of(where, candidate=candidate, split=split),
            )
        return t_interval(list(values.values()), confidence=confidence)

    def row_like(self, where: Where, *, split: str) -> Row | None:
        """Any candidate's row for a question: tells unit and direction."""
        for candidate in self._candidates:
            if found := self.collect(where, candidate=candidate, split=split):
                return next(iter(found.values()))
        return None

    def instead_of(self, where: Where, *, candidate: Candidate, split: str) -> str:
        """Which part of a question matches nothing, and the values it could have."""
        asked = _place_asked(where, candidate, split)
        places = [p for p in self._places if p.split in {split, f"{split}_sequence"} or p.probe == TRAINING]
        for part in ("recipe", "weights", "probe", "metric", "subject", "preprocessing", "condition"):
            fitting = [p for p in places if getattr(p, part) == getattr(asked, part)]
            if not fitting:
                known = sorted({getattr(p, part) for p in places})
                return f"{part} {getattr(asked, part)!r} is none of {known}" if known else f"{split!r} has no rows"
            places = fitting
        return "every part occurs, but not together with finite values"


def describe(where: Where) -> str:
    """A question in words: the label of an objective, else metric, pipeline, subject where unusual, and condition."""
    if label := getattr(where, "label", ""):
        return str(label)
    if where.probe == TRAINING:
        return where.metric
    subject = "" if where.subject == Where.model_fields["subject"].default else f" on {where.subject}"
    condition = f", {where.condition}" if where.condition else ""
    return f"{where.metric} under {where.preprocessing}{subject}{condition}"


def _by_seed(rows: Iterable[Row], where: Where, candidate: Candidate) -> dict[Seed, Row]:
    found: dict[Seed, Row] = {}
    for row in rows:
        seed = (row.init_seed, row.order_seed)
        if seed in found:
            raise InputError(
                f"two rows of {candidate.name}, seeds {seed}, answer {describe(where)}",
                where="rows",
                fix="leave out the rows of earlier settings, or give the probe one entry per condition",
            )
        found[seed] = row
    return dict(sorted(found.items()))


def _place_of(row: Row) -> _Place:
    place = _Place(
        recipe=row.recipe, weights=row.weights, preprocessing=row.preprocessing, subject=row.subject, probe=row.probe,
        condition=row.condition, split=row.split, metric=row.metric,
    )  # fmt: skip
    return _training_wide(place)


def _place_asked(where: Where, candidate: Candidate, split: str) -> _Place:
    place = _Place(
        recipe=candidate.recipe, weights=where.weights or candidate.weights, preprocessing=where.preprocessing,
        subject=where.subject, probe=where.probe, condition=where.condition, split=split, metric=where.metric,
    )  # fmt: skip
    return _training_wide(place)


def _training_wide(place: _Place) -> _Place:
    if place.probe != TRAINING:
        return place
    return replace(place, weights="", preprocessing="", subject="", split="")
