"""Cases: recorded clips without ground truth, on which something new is compared with what is in use, clip by clip."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
import torch

from holdfast.core.contracts import Batch, Metric, Outputs, Picture, Task
from holdfast.core.errors import InputError, nearest
from holdfast.core.fingerprint import environment
from holdfast.core.progress import Progress
from holdfast.core.space import get_leaf
from holdfast.data.samples import Samples
from holdfast.data.table import sensor_batch
from holdfast.deploy.floor import eager_changes
from holdfast.deploy.identity import weights_key
from holdfast.probes.bench import Bench
from holdfast.probes.pieces import batch_size
from holdfast.verify.cells import Cells, Opened
from holdfast.verify.measure import bench_of
from holdfast.verify.order import Order, Source

__all__ = ["Case", "Cases", "Curve", "Symptom", "compare_cases", "judge_symptom", "with_clips"]

Change: TypeAlias = Literal["fixed", "broken", "unchanged"]
LEAST_CHANGE = 0.1
"""A symptom that changes by less than this share is called unchanged, where no margin is given."""


@dataclass(frozen=True, kw_only=True)
class Symptom:
    """A measurement of outputs alone, with what is in use and with what is new.

    ``limit`` is what a change must exceed to count: the margin that was given, or a share of ``before``, and in any
    case the noise floor. A clip is one observation: this is what happened on it, not a test.
    """

    name: str
    unit: str
    before: float
    after: float
    limit: float
    change: Change


@dataclass(frozen=True, kw_only=True)
class Curve:
    """An output over the frames of a clip, with what is in use and with what is new: float (T,)."""

    name: str
    before: np.ndarray
    after: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Case:
    """One clip with one subject under one pipeline, compared with the reference subject.

    Args:
        clip, frames: its name and length.
        subject, pipeline: what is new.
        symptoms: what the task measures of outputs alone.
        moved: mean of each drift of the task from the reference, in its unit.
        curves: for the report.
        picture: the frame that moved most; only where it was asked for.
    """

    clip: str
    frames: int
    subject: str
    pipeline: str
    symptoms: tuple[Symptom, ...]
    moved: Mapping[str, float]
    curves: tuple[Curve, ...] = field(default=(), repr=False)
    picture: Picture | None = field(default=None, repr=False)

    @property
    def change(self) -> Change:
        """``broken`` if any symptom is, else ``fixed`` if any is, else ``unchanged``."""
        changes = {symptom.change for symptom in self.symptoms}
        return next((change for change in ("broken", "fixed") if change in changes), "unchanged")

    @property
    def badness(self) -> float:
        """How many times its limit the worst symptom has grown."""
        return max(((s.after - s.before) / s.limit if s.limit > 0 else 0.0 for s in self.symptoms), default=0.0)


@dataclass(frozen=True, kw_only=True)
class Cases:
    """All comparisons, the worst first; no weights, and no images unless they were asked for.

    Args:
        task: its name.
        reference: the subject in use, and its pipeline.
        weights: key and description of the weights, new ones and those in use.
        cases: clips by subjects and pipelines.
        environment: versions and hardware.
    """

    task: str
    reference: str
    weights: Mapping[str, Mapping[str, Any]]
    cases: tuple[Case, ...]
    environment: Mapping[str, Any]

    @property
    def exit_code(self) -> int:
        """1 if a case is broken, else 0."""
        return int(any(case.change == "broken" for case in self.cases))


def compare_cases(
    order: Order, clips: Mapping[str, Callable[[], Samples]], *, against: Source | None = None, pictures: bool = False,
    quiet: bool = False,
) -> Cases:  # fmt: skip
    """Compare every subject of an order with the one in use, clip by clip.

    Args:
        order: the new model and its subjects; the first pipeline is that of the reference. ``margins`` are by symptom.
        clips: datasets by name, see `holdfast.data.clips.read_clips`.
        against: weights in use; then the reference is the eager model in fp32 with these. Default: the first subject.
        pictures: keep the frame of each case that moved most.
        quiet: no progress.

    Raises:
        InputError: the task declares no symptoms, names that it does not know, or frames of another size than the
            task's own.
    """
    task = order.source.task
    if not task.symptoms:
        raise InputError("declares no symptoms, so a clip without truth says nothing", where=f"task {task.name!r}",
                         fix="give Task(symptoms=...)")  # fmt: skip
    known = [metric.name for metric in task.symptoms]
    if unknown := sorted(set(order.margins) - set(known)):
        raise InputError(f"no symptom {unknown[0]!r}", where="--margin", fix=nearest(unknown[0], known))
    clips = {name: partial(_framed_alike, order, name, read) for name, read in clips.items()}
    new = _on_clips(order, clips)
    replace(new, margins={}).check()
    with Progress(quiet=quiet) as progress, ExitStack() as stack:
        cells = stack.enter_context(Cells(new, progress))
        used, reference, others = cells, cells.opened[0], cells.opened[1:]
        if against is not None:
            old = _on_clips(replace(order, source=against, subjects=("eager:fp32",), recorded=(), graphs=()), clips)
            used = stack.enter_context(Cells(old, progress))
            reference, others = used.opened[0], cells.opened
        compared = _Compared(used=used, cells=cells, reference=reference, pictures=pictures)
        cases = [case for clip in clips for case in compared.of(clip, others)]
    return Cases(
        task=task.name, reference=f"{reference.label} under {order.preprocessing[0]}",
        weights={"new": _described(order.source), "in use": _described(against or order.source)},
        cases=tuple(sorted(cases, key=lambda case: -case.badness)), environment=environment(),
    )  # fmt: skip


def with_clips(task: Task, clips: Mapping[str, Callable[[], Samples]]) -> Task:
    """The task with clips among its splits; each is one group."""

    def data(split: str) -> Any:
        return clips[split]() if split in clips else task.data(split)

    return replace(task, data=data, group=lambda batch: [0] * batch_size(batch))


def judge_symptom(metric: Metric, before: float, after: float, *, floor: float, margin: float | None) -> Symptom:
    """Whether a symptom got worse, better or neither; see `Symptom`."""
    limit = max(floor, LEAST_CHANGE * abs(before) if margin is None else margin)
    worse = after > before + limit
    change: Change = "broken" if worse else "fixed" if after < before - limit else "unchanged"
    return Symptom(name=metric.name, unit=metric.unit, before=before, after=after, limit=limit, change=change)


def _on_clips(order: Order, clips: Mapping[str, Callable[[], Samples]]) -> Order:
    source = replace(order.source, task=with_clips(order.source.task, clips))
    return replace(order, source=source, frames=next(iter(clips)), sequences="")


def _framed_alike(order: Order, clip: str, read: Callable[[], Samples]) -> Samples:
    """The clip; frames of another size would be squeezed by the pipeline, and the geometry be silently wrong."""
    frames = read()
    task = order.source.task
    own = task.data(order.frames)[0]
    for path, _ in task.space:
        ours, theirs = (tuple(get_leaf(sample, path).shape) for sample in (own, frames[0]))
        if ours != theirs:
            raise InputError(
                f"{path!r} of a frame is {theirs}, of task {task.name!r} it is {ours}", where=f"clip {clip!r}",
                fix="record, crop and scale clips as the task's own frames",
            )  # fmt: skip
    return frames


def _described(source: Source) -> dict[str, Any]:
    return {"key": weights_key(source.model), "file": source.weights.name, "about": dict(source.about)}


@dataclass(frozen=True, kw_only=True)
class _Compared:
    """The reference and where its outputs and those of the others come from."""

    used: Cells
    cells: Cells
    reference: Opened
    pictures: bool

    def of(self, clip: str, others: tuple[Opened, ...]) -> Iterator[Case]:
        first, *rest = self.cells.order.preprocessing
        floor = self._floor(clip, first)
        asked = [(opened, first) for opened in others]
        asked += [(opened, pipeline) for pipeline in rest for opened in (*self._again(), *others)]
        for opened, pipeline in asked:
            yield self._case(clip, opened, pipeline, floor)

    def _again(self) -> tuple[Opened, ...]:
        """The reference under the other pipelines, if it holds the new weights."""
        return (self.reference,) if self.used is self.cells else ()

    def _case(self, clip: str, opened: Opened, pipeline: str, floor: Mapping[str, float]) -> Case:
        task, first = self.cells.task, self.cells.order.preprocessing[0]
        base, batch = self.used.batch(clip, first), self.cells.batch(clip, pipeline)
        before, after = self.used.outputs(self.reference, clip, first), self.cells.outputs(opened, clip, pipeline)
        bench = bench_of(self.cells)
        here, there = _symptoms(bench, before, base), _symptoms(bench, after, batch)
        symptoms = tuple(
            judge_symptom(m, here[m.name], there[m.name], floor=floor[m.name],
                          margin=self.cells.order.margins.get(m.name))
            for m in task.symptoms if np.isfinite([here[m.name], there[m.name]]).all()
        )  # fmt: skip
        if not symptoms:
            raise InputError(
                "is too short for every symptom of the task", where=f"clip {clip!r}", fix="give more frames"
            )
        moved = {d.name: bench.values(d, (before, after), batch)[0].nanmean().item() for d in task.drifts}
        return Case(
            clip=clip, frames=batch_size(batch), subject=opened.label, pipeline=pipeline, symptoms=symptoms,
            moved={name: value for name, value in moved.items() if np.isfinite(value)},
            curves=tuple(_curves(task, (before, base), (after, batch))),
            picture=self._picture(clip, bench, before, after, batch) if self.pictures else None,
        )  # fmt: skip

    def _floor(self, clip: str, pipeline: str) -> dict[str, float]:
        """Largest change of each symptom when only the order of the model's sums changes."""
        batch, bench = self.used.batch(clip, pipeline), bench_of(self.used)
        inputs = self.used.task.inputs(batch)
        with torch.no_grad():
            plain = _symptoms(bench, self.used.model(*inputs), batch)
        changed = [_symptoms(bench, out, batch) for out in eager_changes(self.used.model, inputs).values()]
        return {name: max((abs(c[name] - value) for c in changed), default=0.0) for name, value in plain.items()}

    def _picture(self, clip: str, bench: Bench, before: Outputs, after: Outputs, batch: Batch) -> Picture | None:
        task = self.cells.task
        drift = next((drift for drift in task.drifts if drift.over == "sample"), None)
        if task.picture is None or drift is None:
            return None
        values, _ = bench.values(drift, (before, after), batch)
        worst = int(values.nan_to_num().argmax())
        frames = sensor_batch(task.data(clip), range(batch_size(batch)))
        return task.picture(frames, {"reference": before, "deployed": after}, worst)


def _symptoms(bench: Bench, outputs: Outputs, batch: Batch) -> dict[str, float]:
    return {m.name: bench.values(m, (outputs,), batch)[0].nanmean().item() for m in bench.task.symptoms}


def _curves(task: Task, before: tuple[Outputs, Batch], after: tuple[Outputs, Batch]) -> Iterator[Curve]:
    if task.traces is None:
        return
    with torch.no_grad():
        here, there = task.traces(*before), task.traces(*after)
    for name in there:
        if name != "truth":
            yield Curve(name=name, before=here[name].double().numpy(), after=there[name].double().numpy())
