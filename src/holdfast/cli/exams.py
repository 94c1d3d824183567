"""What ``holdfast average`` asks of a task: scores, losses and training batches for candidate weights."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from holdfast.core.contracts import Batch, Metric, Task
from holdfast.core.errors import BackendError, InputError, nearest
from holdfast.data.table import Table, has_split, sensor_batch, spread
from holdfast.deploy.subjects import open_subject
from holdfast.weights.batchnorm import Policy, has_statistics, recalibrate
from holdfast.weights.exam import Exam

__all__ = ["TaskExams"]

BATCH = 64
RECALIBRATION_SAMPLES = 4096
"""Training samples from which BatchNorm statistics are estimated; their error is 1/64 of a deviation."""
CALIBRATION_SAMPLES = 128
"""Samples from which int8 ranges are measured."""


@dataclass(kw_only=True)
class TaskExams:
    """Exams of a task, with data that are loaded once.

    Args:
        task: the task.
        metric: name of a metric over samples; empty: the task's first.
        policy: of the BatchNorm statistics; unless it is ``keep`` or ``average``, candidates are recalibrated.
    """

    task: Task
    metric: str = ""
    policy: Policy = "auto"
    _tables: dict[tuple[str, str], Table] = field(default_factory=dict, init=False)

    @functools.cached_property
    def model(self) -> nn.Module:
        """An instance of the architecture that carries one candidate after the other."""
        return self.task.build_model()

    @functools.cached_property
    def chosen(self) -> Metric:
        """The metric that decides."""
        named = {metric.name: metric for metric in self.task.metrics if metric.over == "sample"}
        name = self.metric or next(iter(named), "")
        if name not in named:
            raise InputError(f"no metric {name!r} over samples", where=f"task {self.task.name!r}",
                             fix=nearest(name, named))  # fmt: skip
        if named[name].better == "neither":
            raise InputError(f"{name!r} has no direction", where=f"task {self.task.name!r}", fix="choose another")
        return named[name]

    def domain(self, spec: str) -> Exam:
        """The metric on ``split``, ``split/pipeline`` or, as it ships, ``split/pipeline@backend:precision``.

        Raises:
            InputError: no such split or pipeline.
            BackendError: when it is measured: no such back-end here, or it lacks the precision.
        """
        data, _, subject = spec.partition("@")
        split, _, pipeline = data.partition("/")
        exam = self.exam(split, pipeline or "train")
        return self._deployed(exam, subject) if subject else exam

    def exam(self, split: str, pipeline: str = "train") -> Exam:
        """The metric on a split under a pipeline, over the samples to which it applies."""
        table = self.table(split, pipeline)
        metric, forward = self.chosen, self.task.forward

        def values(model: nn.Module, indices: Tensor) -> Tensor:
            batch = table.batch(indices)
            return metric.compute(forward(model, batch), batch)

        applies = self._applies(table, values)
        return Exam(
            model=self.model, size=len(applies), measure=lambda model, indices: values(model, applies[indices]),
            better="lower" if metric.better == "lower" else "higher", prepare=self._prepare(),
            name=f"{metric.name} on {split}" + (f" under {pipeline}" if pipeline != "train" else ""),
        )  # fmt: skip

    def losses(self, split: str) -> Exam | None:
        """The task's loss on a split, or None where it is not given per sample."""
        table = self.table(split, "train")

        def values(model: nn.Module, indices: Tensor) -> Tensor:
            batch = table.batch(indices)
            return self.task.loss(self.task.forward(model, batch), batch)

        with torch.no_grad():
            two = torch.arange(min(2, len(table)))
            if values(self.model.eval(), two).shape != two.shape:
                return None
        return Exam(model=self.model, size=len(table), measure=values, better="lower", prepare=self._prepare(),
                    name=f"loss on {split}")  # fmt: skip

    def training_batches(self) -> Iterable[Batch]:
        """Some thousand training samples, in batches of at least two."""
        table = self.table("train", "train")
        order = torch.randperm(len(table), generator=torch.Generator().manual_seed(0))[:RECALIBRATION_SAMPLES]
        for start in range(0, len(order), BATCH):
            yield table.batch(order[start : start + BATCH])

    def score(self, split: str) -> Callable[[nn.Module], float]:
        """``model -> float``, higher is better, for a policy that is chosen by measurement."""
        exam = self.exam(split)
        plain = Exam(model=exam.model, size=exam.size, measure=exam.measure, better=exam.better, name=exam.name)

        def measured(model: nn.Module) -> float:
            return float(plain.sheet(model.state_dict()).upto(plain.size).mean())

        return measured

    def has(self, split: str) -> bool:
        """Whether the task has a split."""
        return has_split(self.task, split)

    def table(self, split: str, pipeline: str) -> Table:
        """A split under a pipeline, in memory."""
        if (split, pipeline) not in self._tables:
            self._tables[split, pipeline] = self._load(split, pipeline)
        return self._tables[split, pipeline]

    def _load(self, split: str, pipeline: str) -> Table:
        if pipeline not in self.task.pipelines:
            raise InputError(f"no pipeline {pipeline!r}", where=f"task {self.task.name!r}",
                             fix=nearest(pipeline, self.task.pipelines))  # fmt: skip
        if not self.has(split):
            raise InputError(f"no split {split!r}", where=f"task {self.task.name!r}", fix="name one it has")
        data = self.task.data(split)
        parts = [
            self.task.pipelines[pipeline](sensor_batch(data, range(start, min(start + BATCH, len(data)))))
            for start in range(0, len(data), BATCH)
        ]
        if not parts:
            raise InputError("is empty", where=f"split {split!r} of task {self.task.name!r}")
        return Table(tree_map(lambda *pieces: torch.cat(pieces), *parts))

    def _deployed(self, exam: Exam, spec: str) -> Exam:
        """The same exam, answered by a back-end that is prepared anew for each candidate."""

        def measure(model: nn.Module, indices: Tensor) -> Tensor:
            table = self.table("calibration" if self.has("calibration") else "train", "train")
            few = spread(len(table), CALIBRATION_SAMPLES)
            calibration = [self.task.inputs(table.batch(part)) for part in torch.split(few, BATCH)]
            with TemporaryDirectory() as folder:
                example = self.task.inputs(table.batch(few[:2]))
                subject = open_subject(spec, model, example, calibration, Path(folder))
                try:
                    if not subject.executed.startswith(subject.precision):
                        raise BackendError(f"{subject.executed} executed instead", where=spec, fix="name what can run")
                    # A task's forward takes whatever can be called in the model's place.
                    running = cast(nn.Module, subject.run)
                    return torch.cat([exam.measure(running, part) for part in torch.split(indices, BATCH)])
                finally:
                    subject.close()

        return replace(exam, measure=measure, block=exam.size, name=f"{exam.name} as {spec}")

    def _prepare(self) -> Callable[[nn.Module], object] | None:
        if self.policy in ("keep", "average") or not has_statistics(self.model):
            return None
        return lambda model: recalibrate(model, self.training_batches(), forward=self.task.forward)

    def _applies(self, table: Table, values: Callable[[nn.Module, Tensor], Tensor]) -> Tensor:
        """Samples to which the metric applies: it gives NaN for the others, whatever the model says."""
        with torch.no_grad():
            pieces = [values(self.model.eval(), indices) for indices in torch.split(torch.arange(len(table)), BATCH)]
        return torch.cat(pieces).isnan().logical_not().nonzero().flatten()
