"""Calibration: is the model as often right as it says, and does it notice what it has never seen, also under shift?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from holdfast.core.contracts import Batch, Better, Measurement, Outputs, Subject, Task
from holdfast.core.errors import InputError
from holdfast.probes.bench import Bench
from holdfast.tasks.calibration import (
    adaptive_edges,
    brier_terms,
    confidence,
    debiased_ece_terms,
    ece_terms,
    equal_edges,
    fit_temperature,
    squared_error_terms,
)
from holdfast.tasks.ood import SCORES, auroc_terms, average_precision_terms, fpr95_terms

__all__ = ["Calibration"]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Calibration and out-of-distribution detection of a classifier, under every pipeline and by every subject.

    Metrics: ``ece``, ``ece_adaptive``, ``ece_debiased``, ``squared_ce_debiased`` (see `holdfast.tasks.calibration`),
    ``nll`` and ``brier``, as they are and, under the condition ``tempered``, after a temperature fitted on another
    split under the reference pipeline; ``temperature``. Where the task has a split of strange samples, under the name
    of the score (``max_softmax``, ``entropy``, ``energy``): ``auroc``, ``aupr`` (strange samples are the
    positives) and ``fpr95`` (the share of strange samples let in when 95 % of the known ones are). Known and strange
    samples come through the same pipeline. The values of a row average to the measure, so differences can be paired.

    Args:
        split: which split.
        fitting: the split that the temperature is fitted on; none when the task lacks it.
        ood: the split of strange samples; passed over when the task lacks it.
        bins: of the ECE. Default 15.

    Raises:
        InputError: a task without `Task.failed`, or whose outputs are not one row of logits a sample.
    """

    split: str = "report"
    fitting: str = "val"
    ood: str = "ood"
    bins: int = 15
    needs: ClassVar[frozenset[str]] = frozenset({"forward"})

    def run(self, bench: Bench) -> Iterable[Measurement]:
        """Rows for each pipeline and subject."""
        for subject in bench.subjects or (bench.eager,):
            temperature = self._temperature(bench, subject)
            for pipeline in bench.preprocessing:
                batch = bench.batch(self.split, pipeline)
                logits = _logits(bench.outputs(subject, self.split, pipeline))
                labels = true_classes(bench.task, logits, batch)
                yield from self._calibration(bench, subject, pipeline, logits, labels, temperature)
                yield from self._detection(bench, subject, pipeline, logits)

    def _temperature(self, bench: Bench, subject: Subject) -> float | None:
        pipeline = bench.preprocessing[0]
        if bench.table(self.fitting, pipeline) is None:
            return None
        logits = _logits(bench.outputs(subject, self.fitting, pipeline))
        return fit_temperature(logits, true_classes(bench.task, logits, bench.batch(self.fitting, pipeline)))

    def _calibration(self, bench: Bench, subject: Subject, pipeline: str, logits: Tensor, labels: Tensor,
                     temperature: float | None) -> Iterator[Measurement]:  # fmt: skip
        groups = bench.groups(bench.batch(self.split, pipeline))
        asked = {"": logits} if temperature is None else {"": logits, "tempered": logits.double() / temperature}
        for condition, scaled in asked.items():
            for metric, values in self._measures(scaled, labels).items():
                unit = "nat" if metric == "nll" else "1"
                yield self._row(bench, subject, pipeline, condition, metric, unit, "lower", values, groups)
        if temperature is not None:
            value = torch.tensor([temperature])
            yield self._row(bench, subject, pipeline, "", "temperature", "1", "neither", value, np.zeros(1, np.int64))

    def _measures(self, logits: Tensor, labels: Tensor) -> Mapping[str, Tensor]:
        largest, right = confidence(logits, labels)
        edges = equal_edges(self.bins)
        return {
            "ece": ece_terms(largest, right, edges),
            "ece_adaptive": ece_terms(largest, right, adaptive_edges(largest, self.bins)),
            "ece_debiased": debiased_ece_terms(largest, right, edges),
            "squared_ce_debiased": squared_error_terms(largest, right, edges),
            "nll": cross_entropy(logits.double(), labels, reduction="none"),
            "brier": brier_terms(logits, labels),
        }

    def _detection(self, bench: Bench, subject: Subject, pipeline: str, logits: Tensor) -> Iterator[Measurement]:
        if bench.table(self.ood, pipeline) is None:
            return
        strange_logits = _logits(bench.outputs(subject, self.ood, pipeline))
        of_known = bench.groups(bench.batch(self.split, pipeline))
        of_strange = bench.groups(bench.batch(self.ood, pipeline))
        for name, score in SCORES.items():
            known, strange = score(logits), score(strange_logits)
            found: tuple[tuple[str, Better, Tensor, np.ndarray], ...] = (
                ("auroc", "higher", auroc_terms(known, strange), of_known),
                ("aupr", "higher", average_precision_terms(strange, known), of_strange),
                ("fpr95", "lower", fpr95_terms(known, strange), of_strange),
            )
            for metric, better, values, groups in found:
                yield self._row(bench, subject, pipeline, name, metric, "1", better, values, groups)

    def _row(self, bench: Bench, subject: Subject, pipeline: str, condition: str, metric: str, unit: str,
             better: Better, values: Tensor, groups: np.ndarray) -> Measurement:  # fmt: skip
        executed = subject.executed.startswith(subject.precision)
        return bench.measurement(
            probe="calibration", subject=subject, preprocessing=pipeline, split=self.split, condition=condition,
            metric=metric, unit=unit, better=better, values=values, groups=groups,
            flags=() if executed else ("precision_not_executed",),
        )  # fmt: skip


def _logits(outputs: Outputs) -> Tensor:
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or outputs.shape[1] < 2:
        raise InputError("the outputs are not logits of shape (B, K), K >= 2", where="calibration",
                         fix="this probe is for classification; leave it out for other tasks")  # fmt: skip
    return outputs.detach()


def true_classes(task: Task, logits: Tensor, batch: Batch) -> Tensor:
    """The right class of each sample, int64 (B,): the one whose certain prediction `Task.failed` lets pass.

    Raises:
        InputError: the task has no `failed`, or another number of classes than one passes for a sample.
    """
    if task.failed is None:
        raise InputError("the task does not say what failed means", where="calibration",
                         fix="give Task(failed=lambda o, b: o.argmax(1) != b['label'])")  # fmt: skip
    passed = torch.stack([
        ~task.failed(torch.zeros_like(logits).index_fill_(1, torch.tensor([k]), 1.0), batch)
        for k in range(logits.shape[1])
    ], dim=1)  # fmt: skip
    if not bool((passed.sum(1) == 1).all()):
        raise InputError("not exactly one class passes `failed` for each sample", where="calibration",
                         fix="this probe is for tasks with one right class a sample")  # fmt: skip
    return passed.int().argmax(1)
