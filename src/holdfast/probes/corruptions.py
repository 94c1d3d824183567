"""Corruptions: how do the task's metrics fall as an image is damaged, and at which severity do they break?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from holdfast.core.contracts import (
    Batch,
    Better,
    Corruption,
    Measurement,
    Outputs,
    ReplacesStep,
    StandsIn,
    Subject,
)
from holdfast.core.discover import build, load, names
from holdfast.core.errors import InputError, nearest
from holdfast.data.corruptions.published import Table
from holdfast.data.table import spread
from holdfast.probes.bench import Bench
from holdfast.probes.damage import At, Samples, chosen_leaf
from holdfast.probes.severity import breaking_severity, common_errors, corruption_errors, crossing

__all__ = ["Corruptions"]

FAMILIES = ("noise", "blur", "weather", "digital", "extra", "deploy")
GROUPS: Mapping[str, tuple[str, ...]] = {"imagenet_c": FAMILIES[:4], **{name: (name,) for name in FAMILIES}}


@dataclass(frozen=True, kw_only=True)
class Corruptions:
    """Metrics per corruption and severity, the severity at which they break, and the errors that papers define.

    For every sample: the task's metrics, ``failed``, and the drifts from the clean outputs. Over the severities:
    ``breaking_severity``, the least at which a sample fails (0: clean already; one more than the last: never), and
    ``limit_severity``, where the mean of ``limit_metric`` crosses ``limit`` (infinity: not within the severities).
    Over the corruptions, where the task says what failed and all common ones were run: ``mean_corruption_error``, and
    on ImageNet ``mce`` and ``relative_mce``. A corruption that moves what the target points at carries the flag
    ``labels_would_move`` where the target depends on places.

    Args:
        corruptions: names of corruptions, ``{name: options}``, and groups: ``imagenet_c`` (the fifteen of ImageNet-C),
            ``noise``, ``blur``, ``weather``, ``digital``, ``extra`` and ``deploy``.
        severities: of each; those that a corruption lacks are passed over.
        at: ``input`` damages what the network is given, as the published benchmarks do; ``sensor`` what the pipeline
            is given. Only there is a frame resized, so ``resample`` is passed over at the input.
        split: which split; ``report`` unless corruptions are used to choose.
        samples: how many samples, spread evenly over the split.
        subjects: further subjects (``backend:precision``) beside the eager model.
        table: published parameters: ``imagenet``, or ``cifar`` for images of about 32x32.
        textures: folder of frost textures; see ``frost``.
        limit_metric: a metric of the task, or ``failed``.
        limit: its limit.
        imagenet: the task is ImageNet classification at 224x224, so that AlexNet's errors apply to it.
        leaf: path of the image; None when the task declares one leaf.
        seed: of all draws; a sample's depend on its position in the split, not on the others.

    Raises:
        InputError: an unknown corruption, split, leaf or metric.
    """

    corruptions: tuple[Any, ...] = ("imagenet_c",)
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    at: At = "input"
    split: str = "report"
    samples: int = 128
    subjects: tuple[str, ...] = ()
    table: Table = "imagenet"
    textures: str = ""
    limit_metric: str = "failed"
    limit: float = 0.5
    imagenet: bool = False
    leaf: str | None = None
    seed: int = 0
    needs: ClassVar[frozenset[str]] = frozenset({"forward"})

    @property
    def plug_ins(self) -> Sequence[tuple[str, str]]:
        """The corruptions, by name."""
        return [("corruption", name) for name in self._chosen()]

    def run(self, bench: Bench) -> Iterable[Measurement]:
        """Rows per subject, corruption, severity and metric, then those over severities and over corruptions."""
        path, leaf = chosen_leaf(bench, self.leaf, who="probe corruptions")
        table = bench.table(self.split, bench.preprocessing[0])
        if table is None:
            raise InputError(f"no split {self.split!r}", where="probe corruptions", fix="name a split the task has")
        chosen = spread(len(table), self.samples).tolist()
        samples = Samples(bench=bench, split=self.split, indices=chosen, path=path, leaf=leaf, at=self.at,
                          seed=self.seed)  # fmt: skip
        subjects = [bench.eager, *(s for s in bench.subjects if s.name in self.subjects)]
        runs = [_Run(probe=self, samples=samples, subject=subject) for subject in subjects]
        for run in runs:
            run.start()
        for name, corruption in self._chosen().items():
            if isinstance(corruption, ReplacesStep) and not samples.has_step(corruption.replaces):
                continue
            for severity in (s for s in self.severities if s in corruption.severities):
                batch = samples.damaged(corruption, severity)
                for run in runs:
                    yield from run.at(name, corruption, severity, batch)
            for run in runs:
                yield from run.breaking(name, corruption)
        for run in runs:
            yield from run.errors(published=self.imagenet and self.table == "imagenet" and self.at == "input")

    def _chosen(self) -> dict[str, Corruption]:
        """The corruptions by name, groups resolved, each built with the probe's table and textures."""
        found: dict[str, Corruption] = {}
        known = names("corruption")
        for spec in self.corruptions:
            name, options = next(iter(spec.items())) if isinstance(spec, Mapping) else (spec, {})
            if name in GROUPS:
                members = [n for n in known if load("corruption", n).family in GROUPS[name]]
            elif name in known:
                members = [name]
            else:
                raise InputError(
                    f"no corruption {name!r}", where="probe corruptions", fix=nearest(name, [*known, *GROUPS])
                )
            found |= {member: self._built(member, options or {}) for member in members}
        return found

    def _built(self, name: str, options: Mapping[str, Any]) -> Corruption:
        fields = load("corruption", name).__dataclass_fields__
        shared = {"table": self.table, "textures": self.textures}
        built: Corruption = build(
            "corruption", {name: {k: v for k, v in shared.items() if k in fields} | dict(options)}
        )
        return built


@dataclass(kw_only=True)
class _Run:
    """One subject under every corruption: what it gave clean, and which samples failed at each severity."""

    probe: Corruptions
    samples: Samples
    subject: Subject
    failed: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    curve: dict[int, float] = field(default_factory=dict)

    def start(self) -> None:
        bench, batch = self.samples.bench, self.samples.clean()
        self.clean_outputs = bench.run(self.subject, batch)
        self.groups = bench.groups(batch)
        self.clean_failed = self._failed(self.clean_outputs, batch)
        self.clean_value = self._limited(self.clean_outputs, batch)

    def at(self, name: str, corruption: Corruption, severity: int, batch: Batch) -> Iterator[Measurement]:
        bench = self.samples.bench
        outputs = bench.run(self.subject, batch)
        condition, flags = f"{_title(name, corruption)} severity={severity}", self._flags(corruption)
        for metric in bench.metrics("sample"):
            values, _ = bench.values(metric, (outputs,), batch)
            yield self._row(condition, metric.name, metric.unit, metric.better, values, flags)
        for drift in (d for d in bench.task.drifts if d.over == "sample"):
            values, _ = bench.values(drift, (self.clean_outputs, outputs), batch)
            yield self._row(condition, drift.name, drift.unit, "neither", values, flags)
        failed = self._failed(outputs, batch)
        if failed is not None:
            self.failed.setdefault(name, {})[severity] = failed
            yield self._row(condition, "failed", "1", "lower", failed.double(), flags)
        self.curve[severity] = self._limited(outputs, batch)

    def breaking(self, name: str, corruption: Corruption) -> Iterator[Measurement]:
        condition, flags = _title(name, corruption), self._flags(corruption)
        if name in self.failed and self.clean_failed is not None:
            broken = breaking_severity(self.clean_failed, self.failed[name])
            yield self._row(condition, "breaking_severity", "severity", "higher", broken, flags)
        levels = sorted(self.curve)
        values = [self.clean_value, *(self.curve[s] for s in levels)]
        if levels and not any(math.isnan(value) for value in values):
            found = crossing([0, *levels], values, self.probe.limit)
            condition = f"{condition}: {self.probe.limit_metric} = {self.probe.limit:g}"
            yield self._row(condition, "limit_severity", "severity", "higher", torch.tensor([found]), flags, whole=True)
        self.curve = {}
        if isinstance(corruption, StandsIn) and corruption.variant:
            self.failed.pop(name, None)  # not the published one, so no published number counts it

    def errors(self, *, published: bool) -> Iterator[Measurement]:
        if self.clean_failed is None:
            return
        if common := common_errors(self.failed):
            yield self._row(common[0], "mean_corruption_error", "1", "lower", common[1], ())
        if published and (errors := corruption_errors(self.clean_failed, self.failed)):
            for name, values in errors.items():
                yield self._row("15 corruptions x 5 severities", name, "1", "lower", values, ())

    def _failed(self, outputs: Outputs, batch: Batch) -> Tensor | None:
        failed = self.samples.bench.task.failed
        return None if failed is None else failed(outputs, batch).bool()

    def _limited(self, outputs: Outputs, batch: Batch) -> float:
        """Mean of the metric that has a limit."""
        bench, name = self.samples.bench, self.probe.limit_metric
        if name == "failed":  # a task need not say what that is; then nothing crosses a limit
            return math.nan if bench.task.failed is None else float(bench.task.failed(outputs, batch).double().mean())
        found = {metric.name: metric for metric in bench.metrics("sample")}
        if name not in found:
            raise InputError(f"the task has no metric {name!r}", where="probe corruptions",
                             fix=nearest(name, [*found, "failed"]))  # fmt: skip
        return float(bench.values(found[name], (outputs,), batch)[0].nanmean())

    def _flags(self, corruption: Corruption) -> tuple[str, ...]:
        moved = corruption.moves_pixels and self.samples.bench.task.geometric
        return ("labels_would_move",) if moved else ()

    def _row(self, condition: str, metric: str, unit: str, better: Better, values: Tensor, flags: tuple[str, ...],
             *, whole: bool = False) -> Measurement:  # fmt: skip
        executed = self.subject.executed.startswith(self.subject.precision)
        return self.samples.bench.measurement(
            probe="corruptions", subject=self.subject, preprocessing=self.samples.preprocessing,
            split=self.probe.split, condition=condition, metric=metric, unit=unit, better=better, values=values,
            groups=self.groups[:1] if whole else self.groups,
            flags=flags if executed else (*flags, "precision_not_executed"),
        )  # fmt: skip


def _title(name: str, corruption: Corruption) -> str:
    variant = corruption.variant if isinstance(corruption, StandsIn) else ""
    return f"{name} ({variant})" if variant else name
