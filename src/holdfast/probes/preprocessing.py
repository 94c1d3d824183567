"""Preprocessing mismatch: which step of the vehicle's pipeline costs how much, alone and together with the others?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from holdfast.core.contracts import Batch, Drift, Measurement, Metric, Outputs, Subject
from holdfast.core.errors import InputError, NoEffectError
from holdfast.core.space import get_leaf
from holdfast.data.preprocess import Pipeline
from holdfast.data.real_resize import installed_resizers
from holdfast.data.table import sensor_batch, spread
from holdfast.probes import shapley
from holdfast.probes.bench import Bench

__all__ = ["Preprocessing"]


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Swap the training pipeline for the vehicle's, step by step and in every combination.

    For each metric, and each drift from the outputs under the training pipeline, per sample: its value with no step
    swapped (``none``), with all (``all``), with one step alone (``only colour``) and with all but one
    (``all but colour``); ``share of colour``, the Shapley value of the step, which is its part of the whole change
    averaged over all orders of swapping; and ``interaction``, what the steps do together beyond the sum of what each
    does alone. The shares sum to the whole change. With six steps or fewer they are exact.

    Args:
        vehicle: name of the vehicle's pipeline. Default: the study's second one.
        groups: steps to swap together, by the name of the group. Steps in no group are swapped alone.
        split: which split.
        samples: how many samples, spread evenly over the split.
        orders: orders of swapping that are sampled when there are more than six steps. Recommended 32.
        resizers: whether to put the real resizers of Pillow, torch and (where installed) OpenCV in the place of the
            training pipeline's ``resize``.
        subjects: further subjects (``backend:precision``) beside the eager model.
        seed: of sampled orders.

    Raises:
        InputError: a pipeline that is not a chain of named steps, an unknown step in a group, a step in two groups.
        NoEffectError: the two pipelines are the same.
    """

    vehicle: str = ""
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    split: str = "report"
    samples: int = 128
    orders: int = 32
    resizers: bool = True
    subjects: tuple[str, ...] = ()
    seed: int = 0
    needs: ClassVar[frozenset[str]] = frozenset({"forward"})

    EXACT_UP_TO: ClassVar[int] = 6

    def run(self, bench: Bench) -> Iterable[Measurement]:
        """Rows per subject, swap and metric or drift."""
        train, vehicle = self._pipelines(bench)
        causes = self._causes(train, vehicle)
        data = bench.task.data(self.split)
        raw = sensor_batch(data, spread(len(data), self.samples).tolist())
        for subject in (bench.eager, *(s for s in bench.subjects if s.name in self.subjects)):
            swaps = _Swaps(
                probe=self, bench=bench, subject=subject, raw=raw, train=train, vehicle=vehicle, causes=causes
            )
            yield from swaps.rows()
            if self.resizers:
                yield from swaps.resizer_rows()

    def _pipelines(self, bench: Bench) -> tuple[Pipeline, Pipeline]:
        known = [*bench.preprocessing]
        name = self.vehicle or (known[1] if len(known) > 1 else "")
        if len(bench.task.pipelines) < 2:
            raise InputError("the task has one pipeline: there is nothing to swap", where="probe preprocessing",
                             fix="give it the vehicle's as a second")  # fmt: skip
        if name not in bench.task.pipelines:
            raise InputError(f"no pipeline {name!r}" if name else "which is the vehicle's pipeline?",
                             where="probe preprocessing", fix=f"vehicle: {sorted(bench.task.pipelines)}")  # fmt: skip
        train, vehicle = (bench.task.pipelines[one] for one in (known[0], name))
        if not isinstance(train, Pipeline) or not isinstance(vehicle, Pipeline):
            raise InputError("steps can be swapped only in a chain of named steps", where="probe preprocessing",
                             fix="make both pipelines a holdfast.data.preprocess.Pipeline")  # fmt: skip
        return train, vehicle

    def _causes(self, train: Pipeline, vehicle: Pipeline) -> dict[str, tuple[str, ...]]:
        """What is swapped as one, by name: groups first."""
        differing = train.differences(vehicle)
        if not differing:
            raise NoEffectError(
                "the two pipelines are the same", where="probe preprocessing", fix="name another in vehicle"
            )
        grouped = [step for steps in self.groups.values() for step in steps]
        known = {step.name for pipeline in (train, vehicle) for step in pipeline.steps}
        if odd := [step for step in grouped if step not in known or grouped.count(step) > 1]:
            raise InputError(f"step {odd[0]!r} is in no pipeline or in two groups", where="probe preprocessing",
                             fix=f"steps are {sorted(known)}")  # fmt: skip
        groups = {name: tuple(s for s in steps if s in differing) for name, steps in self.groups.items()}
        alone = {step: (step,) for step in differing if step not in grouped}
        return {name: steps for name, steps in {**groups, **alone}.items() if steps}


@dataclass(kw_only=True)
class _Swaps:
    """Outputs of one subject under mixtures of two pipelines, and what is asked of them."""

    probe: Preprocessing
    bench: Bench
    subject: Subject
    raw: Batch
    train: Pipeline
    vehicle: Pipeline
    causes: Mapping[str, Sequence[str]]
    known: dict[frozenset[str], tuple[Outputs, Batch]] = field(default_factory=dict)

    def rows(self) -> Iterator[Measurement]:
        nothing, everything = frozenset[str](), frozenset(self.causes)
        for asked in self._asked():
            worth = {chosen: self._value(asked, chosen) for chosen in (nothing, everything)}
            yield self._row("none", asked, worth[nothing])
            yield self._row("all", asked, worth[everything])
            alone = {cause: self._value(asked, frozenset({cause})) for cause in self.causes}
            for cause in self.causes:
                yield self._row(f"only {cause}", asked, alone[cause])
                yield self._row(f"all but {cause}", asked, self._value(asked, everything - {cause}))
            for cause, values in self._shares(asked).items():
                yield self._row(f"share of {cause}", asked, values, change=True)
            together = worth[everything] - worth[nothing]
            apart = torch.stack([value - worth[nothing] for value in alone.values()]).sum(0)
            yield self._row("interaction", asked, together - apart, change=True)

    def resizer_rows(self) -> Iterator[Measurement]:
        """The training pipeline with a real resizer in the place of its own."""
        step = self.train.step("resize")
        if step is None:
            return
        size = self.train.size_after("resize", get_leaf(self.raw, self.train.leaf))
        for name, resizer in installed_resizers(size).items():
            batch = self.train.swap("resize", resizer)(self.raw)
            outputs = self.bench.run(self.subject, batch)
            for asked in self._asked():
                yield self._row(f"resize by {name}", asked, self._of(asked, outputs, batch))

    def _asked(self) -> tuple[Metric | Drift, ...]:
        return (*self.bench.metrics("sample"), *(d for d in self.bench.task.drifts if d.over == "sample"))

    def _shares(self, asked: Metric | Drift) -> dict[str, Tensor]:
        causes = list(self.causes)
        if len(causes) <= self.probe.EXACT_UP_TO:
            return shapley.exact(lambda chosen: self._value(asked, chosen), causes)
        return shapley.sampled(lambda chosen: self._value(asked, chosen), causes, orders=self.probe.orders,
                               seed=self.probe.seed)  # fmt: skip

    def _value(self, asked: Metric | Drift, chosen: frozenset[str]) -> Tensor:
        outputs, batch = self._outputs(chosen)
        return self._of(asked, outputs, batch)

    def _of(self, asked: Metric | Drift, outputs: Outputs, batch: Batch) -> Tensor:
        arguments = (outputs,) if isinstance(asked, Metric) else (self._outputs(frozenset())[0], outputs)
        return self.bench.values(asked, arguments, batch)[0]

    def _outputs(self, chosen: frozenset[str]) -> tuple[Outputs, Batch]:
        if chosen not in self.known:
            steps = {step for cause in chosen for step in self.causes[cause]}
            batch = self.train.mixed(self.vehicle, steps)(self.raw)
            self.known[chosen] = self.bench.run(self.subject, batch), batch
        return self.known[chosen]

    def _row(self, condition: str, asked: Metric | Drift, values: Tensor, *, change: bool = False) -> Measurement:
        better = asked.better if isinstance(asked, Metric) and not change else "neither"
        executed = self.subject.executed.startswith(self.subject.precision)
        sampled = condition.startswith("share") and len(self.causes) > self.probe.EXACT_UP_TO
        return self.bench.measurement(
            probe="preprocessing", subject=self.subject, preprocessing=self.bench.preprocessing[0],
            split=self.probe.split, condition=f"{condition} ({self.probe.orders} orders)" if sampled else condition,
            metric=asked.name, unit=asked.unit, better=better, values=values, groups=self.bench.groups(self.raw),
            flags=() if executed else ("precision_not_executed",),
        )  # fmt: skip
