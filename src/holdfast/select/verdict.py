"""Which recipe is best, and is the difference real? From rows to a verdict that says no more than the data do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from holdfast.core.config import Objective, Study
from holdfast.core.errors import InputError
from holdfast.core.rows import Row
from holdfast.select.compare import Comparison, PairedTests
from holdfast.select.pareto import front, to_minimise
from holdfast.select.stats import Interval, t_interval
from holdfast.select.table import Candidate, Seed, Table, candidates_of, describe

__all__ = ["Axis", "Standing", "Verdict", "judge"]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """An objective together with what its rows say of it."""

    objective: Objective
    label: str
    unit: str
    better: str


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One candidate: its objectives on ``select`` and ``report`` (None where there are no rows).

    Args:
        candidate: the candidate.
        select, report: mean and t interval over seeds, one per axis.
        by_seed: values on ``select`` by seed, one mapping per axis.
        on_front: whether no other candidate is better on every axis.
        comparison: against the baseline on ``select``.
    """

    candidate: Candidate
    select: tuple[Interval | None, ...]
    report: tuple[Interval | None, ...]
    by_seed: tuple[dict[Seed, float], ...]
    on_front: bool = False
    comparison: Comparison | None = None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The outcome of a selection.

    Args:
        axes: the objectives; ``primary`` is the index of the one compared.
        standings: every candidate with rows, in the order of the study.
        baseline: the candidate that others must beat; None where it has no rows.
        recommended: best primary mean on the Pareto front; None where nothing has rows.
        confirmation: the recommended candidate against the baseline on ``report``, which did not choose it.
        missing: candidates of the study without rows on the primary objective.
        seeds: seeds the study asked for.
        alpha: level of the tests.
    """

    axes: tuple[Axis, ...]
    primary: int
    standings: tuple[Standing, ...]
    baseline: Candidate | None
    recommended: Candidate | None
    confirmation: Comparison | None
    missing: tuple[Candidate, ...]
    seeds: int
    alpha: float

    def of(self, candidate: Candidate | None) -> Standing | None:
        """The standing of a candidate."""
        return next((s for s in self.standings if s.candidate == candidate), None)

    @property
    def winner(self) -> Candidate | None:
        """The recommended candidate, if at least five seeds separate it from the baseline."""
        standing = self.of(self.recommended)
        comparison = standing.comparison if standing else None
        return self.recommended if comparison is not None and comparison.finding == "better" else None


def judge(study: Study, rows: Iterable[Row]) -> Verdict:
    """Select on the ``select`` split, then look at the chosen one on ``report``.

    Args:
        study: objectives, baseline, alpha and the recipes that were asked for.
        rows: rows of the study's current cells.

    Raises:
        InputError: an objective has no rows though others have, or the primary one's metric has no direction.
    """
    table = Table(rows)
    if not any(row.split.startswith("select") for row in table.rows):
        return _nothing(study)
    axes, primary = _axes(study, table)
    candidates = candidates_of(study)
    standings = [_standing(table, axes, c) for c in candidates]
    present = [s for s in standings if s.by_seed[primary]]
    missing = tuple(s.candidate for s in standings if not s.by_seed[primary])
    baseline = _baseline(study, present)
    tests = PairedTests(better=axes[primary].better, alpha=study.select.alpha)
    present = _compared(_mark_front(present, axes), tests, primary, baseline)
    recommended = _best(present, axes[primary], primary)
    return Verdict(
        axes=axes, primary=primary, standings=tuple(present), baseline=baseline, recommended=recommended,
        confirmation=_confirm(table, tests, axes[primary].objective, recommended, baseline), missing=missing,
        seeds=len(study.seeds()), alpha=study.select.alpha,
    )  # fmt: skip


# --- pieces ---------------------------------------------------------------------------------------------


def _nothing(study: Study) -> Verdict:
    """Every training failed or none has finished."""
    return Verdict(
        axes=(), primary=0, standings=(), baseline=None, recommended=None, confirmation=None,
        missing=candidates_of(study), seeds=len(study.seeds()), alpha=study.select.alpha,
    )  # fmt: skip


def _axes(study: Study, table: Table) -> tuple[tuple[Axis, ...], int]:
    objectives = study.select.objectives or _default_objectives(study, table)
    axes = []
    for objective in objectives:
        row = table.row_like(objective, split="select")
        if row is None:
            fix = table.instead_of(objective, candidate=Candidate(next(iter(study.recipes))), split="select")
            raise InputError(f"no rows for objective {describe(objective)!r}", where="select.objectives", fix=fix)
        axes.append(Axis(objective=objective, label=describe(objective), unit=row.unit, better=row.better))
    primary = study.select.primary if study.select.objectives else 0
    to_minimise(0.0, axes[primary].better)  # refuses a primary objective without direction
    return tuple(axes), primary


def _default_objectives(study: Study, table: Table) -> tuple[Objective, ...]:
    """Primary metric (the first that a probe wrote) as it ships and under the reference, and training cost."""
    ranked = (r for r in table.rows if r.probe == "deployment" and r.split == "select" and r.better != "neither")
    row = next(ranked, None)
    if row is None:
        raise InputError("no rows of the deployment probe to select on", where="select", fix="give select.objectives")
    pipelines = dict.fromkeys((study.deployed, study.preprocessing[0]))
    chosen = [Objective(metric=row.metric, preprocessing=p, subject=study.subjects[0]) for p in pipelines]
    cost = Objective(metric="train_cost", probe="train", label="training cost")
    return (*chosen, cost) if table.row_like(cost, split="select") else tuple(chosen)


def _standing(table: Table, axes: Sequence[Axis], candidate: Candidate) -> Standing:
    by_seed = tuple(table.values(axis.objective, candidate=candidate, split="select") for axis in axes)
    on_report = (table.values(axis.objective, candidate=candidate, split="report") for axis in axes)
    return Standing(
        candidate=candidate, by_seed=by_seed, select=tuple(_interval(values) for values in by_seed),
        report=tuple(_interval(values) for values in on_report),
    )  # fmt: skip


def _interval(values: dict[Seed, float]) -> Interval | None:
    return t_interval(list(values.values())) if values else None


def _baseline(study: Study, present: Sequence[Standing]) -> Candidate | None:
    name = study.select.baseline if len(study.recipes) > 1 else next(iter(study.recipes))
    return Candidate(name) if any(s.candidate == Candidate(name) for s in present) else None


def _mark_front(standings: Sequence[Standing], axes: Sequence[Axis]) -> list[Standing]:
    ranked = [i for i, axis in enumerate(axes) if axis.better != "neither"]
    points = [[_signed(s.select[i], axes[i].better) for i in ranked] for s in standings]
    kept = set(front(points)) if points else set()
    return [replace(s, on_front=i in kept) for i, s in enumerate(standings)]


def _signed(interval: Interval | None, better: str) -> float:
    return float("nan") if interval is None else to_minimise(interval.estimate, better)


def _best(standings: Sequence[Standing], axis: Axis, primary: int) -> Candidate | None:
    pool = [s for s in standings if s.on_front] or list(standings)
    return min(pool, key=lambda s: _signed(s.select[primary], axis.better)).candidate if pool else None


def _compared(
    standings: Sequence[Standing], tests: PairedTests, primary: int, baseline: Candidate | None
) -> list[Standing]:
    if baseline is None:
        return list(standings)
    found = tests.against(baseline, {s.candidate: s.by_seed[primary] for s in standings})
    return [replace(s, comparison=found.get(s.candidate)) for s in standings]


def _confirm(
    table: Table, tests: PairedTests, objective: Objective, recommended: Candidate | None, baseline: Candidate | None
) -> Comparison | None:
    if recommended is None or baseline is None:
        return None
    both = {c: table.values(objective, candidate=c, split="report") for c in (recommended, baseline)}
    return tests.against(baseline, both).get(recommended)
