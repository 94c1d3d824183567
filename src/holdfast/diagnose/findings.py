"""From rows to findings: what costs how much of the task's first metric, from what strength, and where it sits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from holdfast.core.contracts import Metric, Task
from holdfast.core.rows import Row
from holdfast.diagnose.conditions import UNDISTURBED, Condition, read_condition
from holdfast.select.bootstrap import within_run
from holdfast.select.stats import Interval

__all__ = ["Finding", "carriers", "find", "tolerated"]

Samples = Callable[[Row], tuple[NDArray[np.float64], NDArray[np.int64]]]
SHIPPED = ("pipeline", "precision", "both", "repair")
RANKINGS = ("step", "layer", "criticality")
RESETS = ("reinit", "rerand")
"""What nobody does to a model that ships: it measures layers, and stands behind everything that may happen."""
SEEN = 0.01
"""Share of the pixels' difference from which on a cause is named: less carries no damage."""
REFERENCE_PROBES = ("deployment", "clean")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a disturbance, a layer, a step or a fault costs.

    Args:
        kind: ``pipeline``, ``precision`` or ``both`` (against the reference cell), ``repair`` (what mending the input
            or the statistics brings back), ``step`` of preprocessing, ``layer`` (alone at a low precision),
            ``strength`` (a disturbance), or ``criticality`` (a layer that was reset), which stands last.
        name: of the pipeline, subject, repair, step, layer, or disturbance.
        probe, condition, subject, preprocessing: of the row with the largest damage.
        metric, unit: in which damage is counted.
        baseline, value: undisturbed and disturbed.
        interval: of the damage, 90 % over groups; None for a single value.
        tolerance: what is allowed, in the unit.
        curve: (strength, damage) from weak to strong.
        measure: name of the strength, e.g. ``eps``.
        others: what else of the same ranking costs much: (name, damage).
        carried_by: what was seen to carry it: causes in the pixels, preprocessing steps, the layer where it starts.
        n, groups, flags: of the row.
    """

    kind: str
    name: str
    probe: str
    condition: str
    subject: str
    preprocessing: str
    metric: str
    unit: str
    baseline: float
    value: float
    damage: float
    tolerance: float
    interval: Interval | None = None
    curve: tuple[tuple[float, float], ...] = ()
    measure: str = ""
    others: tuple[tuple[str, float], ...] = ()
    carried_by: tuple[str, ...] = ()
    n: int = 0
    groups: int = 0
    flags: tuple[str, ...] = ()

    @property
    def as_shipped(self) -> bool:
        """Whether the damage is there without anybody's doing: it ships."""
        return self.kind in SHIPPED

    @property
    def breaks(self) -> bool:
        """Whether it costs more than is tolerated, and that is not chance."""
        sure = self.interval is None or self.interval.low > 0
        return self.damage > self.tolerance and sure

    @property
    def breaks_at(self) -> float | None:
        """The weakest tested strength at which more than the tolerance is lost."""
        return next((strength for strength, damage in self.curve if damage > self.tolerance), None)

    @property
    def holds_to(self) -> float | None:
        """The strongest tested strength below `breaks_at`."""
        limit = math.inf if self.breaks_at is None else self.breaks_at
        return max((strength for strength, _ in self.curve if strength < limit), default=None)


def tolerated(metric: Metric, baseline: float, asked: float | None) -> float:
    """What a metric may lose: what was asked for, 0.05 of a share, or a quarter of the undisturbed value."""
    if asked is not None:
        return asked
    return 0.05 if metric.unit in ("", "1") and metric.better == "higher" else 0.25 * abs(baseline)


def find(
    task: Task, rows: Sequence[Row], samples: Samples, *, subject: str, tolerance: float | None = None
) -> list[Finding]:  # fmt: skip
    """Findings in the task's first metric, the most damaging first.

    Args:
        task: its first metric over samples is the one that counts.
        rows: everything measured.
        samples: per-sample values and groups of a row.
        subject: the one under diagnosis; rows of others count against their own undisturbed value.
        tolerance: see `tolerated`.
    """
    metric = next(metric for metric in task.metrics if metric.over == "sample")
    mine = [row for row in rows if row.metric == metric.name and math.isfinite(row.value)]
    judge = _Judge(mine, metric, samples, subject, tolerance)
    singles = [found for row in mine if (found := judge.finding(row)) is not None and _worth_saying(found)]
    merged = [_merged(list(same)) for _, same in groupby(sorted(singles, key=_family), key=_family)]
    placed = [replace(finding, carried_by=carriers(finding, merged, rows)) for finding in merged]
    return sorted(placed, key=lambda finding: (finding.kind == "criticality", -finding.damage))


class _Judge:
    """Damage of a row against its undisturbed value."""

    def __init__(
        self, rows: Sequence[Row], metric: Metric, samples: Samples, subject: str, tolerance: float | None
    ) -> None:
        self.metric, self.subject, self.asked = metric, subject, tolerance
        self._samples = samples
        self._read: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = {}
        self.worse = -1.0 if metric.better == "higher" else 1.0
        self.whole: dict[tuple[str, str, str], Row] = {}
        self.own: dict[tuple[str, str, str, str], Row] = {}
        self.pipeline = next((row.preprocessing for row in rows), "")
        for probe in reversed(REFERENCE_PROBES):
            found = [row for row in rows if row.probe == probe and not row.condition]
            self.whole.update({(row.subject, row.preprocessing, row.split): row for row in found})
            self.pipeline = found[0].preprocessing if found else self.pipeline
        for row in rows:
            if row.condition in UNDISTURBED and row.probe not in REFERENCE_PROBES:
                self.own[row.probe, row.subject, row.preprocessing, row.split] = row

    def samples(self, row: Row) -> tuple[np.ndarray, np.ndarray]:
        """Values and groups of a row; an undisturbed row is asked for by all that count against it."""
        key = (row.cell, row.samples)
        if key not in self._read:
            self._read[key] = self._samples(row)
        return self._read[key]

    def finding(self, row: Row) -> Finding | None:
        condition = read_condition(row.condition)
        baseline = self._baseline(row)
        # Swapping all or some steps of preprocessing is told by the pipeline and by the shares of the steps.
        partly = row.probe == "preprocessing" and not condition.step
        again = row.condition.endswith((" recalibrated", " robust layers"))
        if baseline is None or row.condition in UNDISTURBED[1:] or partly or again:
            return None
        kind, name = self._kind(row, condition)
        # A repair gives back what the present state costs.
        sign = -self.worse if kind == "repair" else self.worse
        value = baseline.value + row.value if condition.step else row.value
        damage = sign * (value - baseline.value)
        curve = () if condition.strength is None else ((condition.strength, damage),)
        return Finding(
            kind=kind, name=name, probe=row.probe, condition=row.condition, subject=row.subject,
            preprocessing=row.preprocessing, metric=self.metric.name, unit=self.metric.unit, baseline=baseline.value,
            value=value, damage=damage, tolerance=tolerated(self.metric, baseline.value, self.asked), curve=curve,
            measure=condition.measure, interval=self._interval(row, None if condition.step else baseline, sign),
            n=row.n, groups=row.groups,
            flags=row.flags,
        )  # fmt: skip

    def _baseline(self, row: Row) -> Row | None:
        """The undisturbed row: of the same probe, else of the same subject, else of the one under diagnosis."""
        reference = self.whole.get((self.subject, self.pipeline, row.split))
        if row.probe in REFERENCE_PROBES:
            return None if row.probe == "clean" or row is reference else reference
        own = self.own.get((row.probe, row.subject, row.preprocessing, row.split))
        return own or self.whole.get((row.subject, row.preprocessing, row.split)) or reference

    def _kind(self, row: Row, condition: Condition) -> tuple[str, str]:
        if row.probe == "deployment":
            moved, other = row.preprocessing != self.pipeline, row.subject != self.subject
            if moved and other:
                return "both", f"{row.subject} under {row.preprocessing}"
            return ("pipeline", row.preprocessing) if moved else ("precision", row.subject)
        if row.probe == "input_repair":
            return "repair", row.condition
        if condition.step:
            return "step", condition.step
        if condition.layer:
            return ("criticality" if condition.family in RESETS else "layer"), condition.layer
        return "strength", condition.family or row.probe

    def _interval(self, row: Row, baseline: Row | None, sign: float) -> Interval | None:
        """Over groups; paired where both rows speak of the same samples, else against the mean of the other."""
        if not row.samples or row.n < 2:
            return None
        values, groups = self.samples(row)
        if baseline is None:
            return within_run(sign * values, groups, confidence=0.9)
        before, others = self.samples(baseline) if baseline.samples else (np.zeros(0), groups)
        paired = values.shape == before.shape and np.array_equal(groups, others)
        return within_run(sign * (values - (before if paired else baseline.value)), groups, confidence=0.9)


def _worth_saying(finding: Finding) -> bool:
    """A repair that brings nothing back tells that there was no such fault: nothing is wrong then."""
    return finding.kind != "repair" or finding.breaks


def _family(finding: Finding) -> tuple[str, ...]:
    """Findings of one curve or one ranking."""
    family = read_condition(finding.condition).family
    alone = finding.name if finding.kind in (*SHIPPED, "strength") else ""
    return finding.kind, finding.probe, finding.subject, finding.preprocessing, family, alone


def _merged(same: Sequence[Finding]) -> Finding:
    """The worst of a family, with the curve or the ranking of all of it."""
    worst = max(same, key=lambda finding: finding.damage)
    curve = tuple(sorted(_points(same)))
    others = sorted(((f.name, f.damage) for f in same if f.name != worst.name), key=lambda pair: -pair[1])
    return replace(worst, curve=curve, others=tuple(others) if worst.kind in RANKINGS else ())


def _points(same: Iterable[Finding]) -> Iterator[tuple[float, float]]:
    for finding in same:
        yield from finding.curve


# --- what carries it ------------------------------------------------------------------------------------


def carriers(finding: Finding, findings: Sequence[Finding], rows: Sequence[Row]) -> tuple[str, ...]:
    """For a pipeline: causes seen in the pixels and the steps that cost most; for both factors: where it starts."""
    said: list[str] = []
    if finding.kind in ("pipeline", "both"):
        pipeline = finding.name.rpartition(" under ")[2]
        causes = [row for row in rows if row.probe == "input_drift" and row.preprocessing == pipeline]
        causes = [row for row in causes if row.condition.startswith("cause=") and row.value >= SEEN]
        named = sorted(causes, key=lambda row: -row.value)
        said += [f"{row.condition.removeprefix('cause=')} ({row.value:.0%} of the pixels' difference)" for row in named]
        steps = [step for step in findings if step.kind == "step" and step.damage > 0]
        said += [f"step {name}" for step in steps for name, damage in ((step.name, step.damage), *step.others)
                 if damage > 0.1 * finding.damage]  # fmt: skip
    if finding.kind in ("pipeline", "precision"):
        precision = finding.name.rpartition(":")[2] if finding.kind == "precision" else ""
        said += [f"starts at layer {layer}" for layer in _divergence(rows, finding, precision)]
    return tuple(said[:5])


def _divergence(rows: Sequence[Row], finding: Finding, precision: str) -> list[str]:
    """The layer at which two runs part, as the datapath probe saw it."""
    found = [row for row in rows if row.probe == "datapath" and row.metric == "divergence" and row.value == 1]
    if precision:
        return [row.condition.removesuffix(f" {precision}") for row in found if row.condition.endswith(f" {precision}")]
    return [row.condition for row in found if row.preprocessing == finding.name]
