"""The tables of a report as data: cells with a mean, its interval and its ratio, before anybody draws them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from holdfast.core.config import Study, Where
from holdfast.report.inputs import ReportInput
from holdfast.select.stats import Interval, t_interval
from holdfast.select.table import TRAINING, Candidate, Table
from holdfast.select.wording import ends, number

__all__ = ["Cell", "Column", "TwoFactor", "flagged", "headline_metrics", "other_metrics", "two_factor"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The mean of a metric over seeds.

    Args:
        values: one per seed.
        ratio: to the reference cell; None where that is missing or zero.
        worse: how much worse than the reference, from -1 (half or less) over 0 to 1 (twice or more).
        flags: flags of the rows.
    """

    values: tuple[float, ...]
    ratio: float | None = None
    worse: float = 0.0
    flags: tuple[str, ...] = ()

    @property
    def interval(self) -> Interval | None:
        """Mean and t interval over seeds."""
        return t_interval(self.values) if self.values else None

    @property
    def text(self) -> str:
        """The mean."""
        return number(self.interval.estimate) if self.interval else "–"

    @property
    def detail(self) -> str:
        """The interval from three seeds on, both values of two seeds, nothing for one."""
        if self.interval is None or len(self.values) < 2:
            return ""
        if len(self.values) == 2:
            return ", ".join(number(v) for v in self.values)
        return ends(self.interval)

    @property
    def factor(self) -> str:
        """The ratio to the reference cell."""
        return "" if self.ratio is None else f"×{number(self.ratio)}"


@dataclass(frozen=True, kw_only=True)
class Column:
    """A subject: its back-end and the precision that really executed (with "emulated" where it was emulated)."""

    subject: str
    backend: str
    executed: str
    asked: str

    @property
    def differs(self) -> bool:
        """Whether another precision was asked for than the one that executed."""
        return not self.executed.startswith(self.asked)


@dataclass(frozen=True, kw_only=True)
class TwoFactor:
    """{preprocessing} x {subject} of one candidate for one metric on ``report``; the first cell is the reference."""

    candidate: Candidate
    metric: str
    unit: str
    better: str
    seeds: int
    samples: int
    groups: int
    columns: tuple[Column, ...]
    lines: tuple[tuple[str, tuple[Cell, ...]], ...]


def two_factor(study: Study, table: Table, candidate: Candidate, metric: str) -> TwoFactor | None:
    """The table of a candidate, or None where the deployment probe has no rows of the metric."""
    asked = [[Where(metric=metric, preprocessing=p, subject=s) for s in study.subjects] for p in study.preprocessing]
    found = [[table.collect(where, candidate=candidate, split="report") for where in line] for line in asked]
    rows = [row for line in found for cell in line for row in cell.values()]
    if not rows:
        return None
    values = [[_finite(row.value for row in cell.values()) for cell in line] for line in found]
    reference, first = values[0][0], rows[0]
    cells = [
        tuple(_cell(mine, reference, first.better, tuple(sorted({f for row in cell.values() for f in row.flags})))
              for mine, cell in zip(line, cells, strict=True))
        for line, cells in zip(values, found, strict=True)
    ]  # fmt: skip
    executed = {row.subject: row.executed for row in rows}
    return TwoFactor(
        candidate=candidate, metric=metric, unit=first.unit, better=first.better, samples=first.n, groups=first.groups,
        seeds=len({(row.init_seed, row.order_seed) for row in rows}),
        columns=tuple(_column(subject, executed.get(subject, "not executed")) for subject in study.subjects),
        lines=tuple(zip(study.preprocessing, cells, strict=True)),
    )  # fmt: skip


def headline_metrics(report: ReportInput) -> list[str]:
    """Metrics that deserve a two-factor table: those of the objectives, the primary one first."""
    axes = report.verdict.axes
    ordered = [axes[report.verdict.primary], *axes] if axes else []
    return list(dict.fromkeys(axis.objective.metric for axis in ordered if axis.objective.probe == "deployment"))


def other_metrics(report: ReportInput, table: Table) -> dict[str, dict[Candidate, Cell]]:
    """Every metric and drift of the deployment probe under the pipeline that ships, on the reference subject."""
    study = report.study
    names = dict.fromkeys(row.metric for row in table.rows if row.probe == "deployment")
    found: dict[str, dict[Candidate, Cell]] = {}
    for name in names:
        where = Where(metric=name, preprocessing=study.deployed, subject=study.subjects[0])
        cells = {c: table.values(where, candidate=c, split="report") for c in report.candidates}
        unit = row.unit if (row := table.row_like(where, split="report")) else ""
        label = name if unit in {"", "1"} else f"{name} [{unit}]"
        found[label] = {c: Cell(values=tuple(values.values())) for c, values in cells.items() if values}
    return {label: cells for label, cells in found.items() if cells}


def flagged(report: ReportInput) -> dict[str, list[str]]:
    """Where each flag occurs: probes with subjects, by flag."""
    found: dict[str, dict[str, int]] = {}
    for row in report.rows:
        place = row.probe if row.probe == TRAINING else f"{row.probe} on {row.subject}"
        for flag in row.flags:
            places = found.setdefault(flag, {})
            places[place] = places.get(place, 0) + 1
    return {flag: [f"{place} ({n} rows)" for place, n in places.items()] for flag, places in sorted(found.items())}


def _cell(values: Sequence[float], reference: Sequence[float], better: str, flags: tuple[str, ...]) -> Cell:
    mean, base = _mean(values), _mean(reference)
    if mean is None or base is None or base == 0:
        return Cell(values=tuple(values), flags=flags)
    ratio, worse = mean / base, 0.0
    if ratio > 0 and better != "neither":
        worse = max(-1.0, min(1.0, math.log2(ratio if better == "lower" else 1 / ratio)))
    return Cell(values=tuple(values), ratio=ratio, worse=worse, flags=flags)


def _column(subject: str, executed: str) -> Column:
    backend, _, precision = subject.partition(":")
    return Column(subject=subject, backend=backend, executed=executed, asked=precision)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _finite(values: Iterator[float]) -> tuple[float, ...]:
    return tuple(v for v in values if math.isfinite(v))
