"""The measurements of a verification: inputs, noise floor, metrics and drifts cell by cell, flips, tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from holdfast.core.contracts import Drift, Metric, Outputs
from holdfast.core.space import get_leaf
from holdfast.deploy.floor import eager_changes, session_changes
from holdfast.deploy.nest import flatten
from holdfast.deploy.parity import (
    Finding,
    Flips,
    Kind,
    TensorAgreement,
    compare_tensors,
    count_flips,
    judge,
)  # fmt: skip
from holdfast.probes.bench import Bench, RunLabel
from holdfast.verify.cells import Cells, Opened

__all__ = ["Compared", "InputMove", "Wobble", "compare", "input_moves", "means", "wobbles"]

FLOOR_SAMPLES = 32


@dataclass(frozen=True, kw_only=True)
class InputMove:
    """How far a pipeline moves a model input from the reference pipeline, in the leaf's own unit (grey levels)."""

    pipeline: str
    leaf: str
    mean: float
    p99: float
    largest: float


@dataclass(frozen=True, kw_only=True)
class Wobble:
    """How far a subject departs from itself under a change that alters nothing but rounding."""

    subject: str
    change: str
    quantity: str
    unit: str
    mean: float
    largest: float


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A subject under a pipeline against the reference subject.

    Args:
        factor: ``input``: the reference subject under another pipeline; ``arithmetic``: another subject under the
            same pipeline; ``both``: another subject and pipeline.
        subject, pipeline, split: what is compared.
        findings: one per metric (difference) and drift (displacement).
        flips: where the task says what is broken.
        tensors: outputs compared as numbers.
    """

    factor: str
    subject: str
    pipeline: str
    split: str
    findings: tuple[Finding, ...]
    flips: Flips | None
    tensors: tuple[TensorAgreement, ...]


def bench_of(cells: Cells) -> Bench:
    """Metrics, drifts and groups of the task."""
    label = RunLabel(study="verify", recipe="", init_seed=0, order_seed=0, weights="")
    return Bench(
        label=label, task=cells.task, model=cells.model, open_table=lambda *_: None, open_subjects=list,
        preprocessing=cells.order.preprocessing,
    )  # fmt: skip


def quantities(cells: Cells, split: str) -> list[Metric | Drift]:
    """What is measured on a split: metrics and drifts over samples, or over sequences."""
    over = "sequence" if split == cells.order.sequences and split != cells.order.frames else "sample"
    asked: tuple[Metric | Drift, ...] = (*cells.task.metrics, *cells.task.drifts)
    return [quantity for quantity in asked if quantity.over == over]


# --- inputs ---------------------------------------------------------------------------------------------


def input_moves(cells: Cells) -> Iterator[InputMove]:
    """Difference of every perturbable leaf between the reference pipeline and each other one."""
    reference, *others = cells.order.preprocessing
    for pipeline in others:
        ours, theirs = (cells.batch(cells.order.frames, name) for name in (reference, pipeline))
        for path, leaf in cells.task.space:
            a, b = get_leaf(ours, path), get_leaf(theirs, path)
            if a.shape != b.shape:
                continue
            moved = ((b - a) / leaf.budget(1.0, a)).abs().flatten().double().numpy()
            yield InputMove(
                pipeline=pipeline, leaf=path, mean=float(moved.mean()), p99=float(np.quantile(moved, 0.99)),
                largest=float(moved.max()),
            )  # fmt: skip


# --- the noise floor ------------------------------------------------------------------------------------


def wobbles(cells: Cells, folder: Path) -> Iterator[Wobble]:
    """The noise floor of the eager model and of every subject, on a few samples, in all that is measured a sample."""
    split, pipeline = cells.order.frames, cells.order.preprocessing[0]
    batch = cells.table(split, pipeline).batch(torch.arange(min(FLOOR_SAMPLES, len(cells.table(split, pipeline)))))
    inputs = cells.task.inputs(batch)
    with torch.no_grad():
        plain = cells.model(*inputs)
    changed = {("eager:fp32", name): (plain, out) for name, out in eager_changes(cells.model, inputs).items()}
    for opened in cells.opened:
        if opened.artefact.backend not in ("eager", "recorded"):
            changed |= _of_session(cells, opened, inputs, folder)
    for (subject, change), (reference, outputs) in changed.items():
        for quantity in quantities(cells, split):
            if isinstance(quantity, Drift):
                values = quantity.compute(reference, outputs, batch).double()
            else:
                values = (quantity.compute(outputs, batch) - quantity.compute(reference, batch)).double().abs()
            yield Wobble(
                subject=subject, change=change, quantity=quantity.name, unit=quantity.unit,
                mean=float(values.nanmean()), largest=float(values.nan_to_num().max()),
            )  # fmt: skip


def _of_session(
    cells: Cells, opened: Opened, inputs: tuple[Tensor, ...], folder: Path
) -> dict[tuple[str, str], tuple[Outputs, Outputs]]:
    rebuilt = None
    if opened.artefact.path is not None and opened.artefact.backend != "graph":
        rebuilt = cells.prepare(opened.backend, opened.subject.precision, folder)
    plain = opened.subject.run(*inputs)
    changes = session_changes(opened.backend, opened.artefact, inputs, rebuilt)
    return {(opened.label, name): (plain, outputs) for name, outputs in changes.items()}


# --- comparisons ----------------------------------------------------------------------------------------


def means(cells: Cells, bench: Bench, split: str, pipeline: str, opened: Opened) -> dict[str, float]:
    """Mean of every metric in one cell of the two-factor table."""
    batch, outputs = cells.batch(split, pipeline), cells.outputs(opened, split, pipeline)
    found = {}
    for metric in (q for q in quantities(cells, split) if isinstance(q, Metric)):
        values, _ = bench.values(metric, (outputs,), batch)
        found[metric.name] = float(values.nanmean())
    return found


def compare(
    cells: Cells, bench: Bench, split: str, opened: Opened, pipeline: str, *, factor: str, floor: Mapping[str, float]
) -> Compared:
    """One subject and pipeline against the reference subject, under the same or the reference pipeline."""
    order, reference = cells.order, cells.opened[0]
    base = pipeline if factor == "arithmetic" else order.preprocessing[0]
    batch, base_batch = cells.batch(split, pipeline), cells.batch(split, base)
    ours, theirs = cells.outputs(reference, split, base), cells.outputs(opened, split, pipeline)
    margins = order.margins if factor == "arithmetic" else order.total_margins if factor == "both" else {}
    findings = []
    for quantity in quantities(cells, split):
        values, groups, kind = _values(bench, quantity, (ours, base_batch), (theirs, batch))
        if np.isfinite(values).any():
            findings.append(judge(
                values, groups, name=quantity.name, unit=quantity.unit, kind=kind, margin=margins.get(quantity.name),
                floor=floor.get(quantity.name, 0.0), alpha=order.alpha,
            ))  # fmt: skip
    return Compared(
        factor=factor, subject=opened.label, pipeline=pipeline, split=split, findings=tuple(findings),
        flips=_flips(cells, bench, split, (ours, base_batch), (theirs, batch)), tensors=tuple(_tensors(ours, theirs)),
    )  # fmt: skip


def _values(
    bench: Bench, quantity: Metric | Drift, reference: tuple[Outputs, Any], other: tuple[Outputs, Any]
) -> tuple[NDArray[np.float64], NDArray[np.int64], Kind]:
    (ours, base_batch), (theirs, batch) = reference, other
    if isinstance(quantity, Drift):
        values, groups = bench.values(quantity, (ours, theirs), batch)
        return values.numpy(), groups, "displacement"
    before, groups = bench.values(quantity, (ours,), base_batch)
    after, _ = bench.values(quantity, (theirs,), batch)
    return (after - before).numpy(), groups, "difference"


def _flips(
    cells: Cells, bench: Bench, split: str, reference: tuple[Outputs, Any], other: tuple[Outputs, Any]
) -> Flips | None:
    failed = cells.task.failed
    if failed is None or split != cells.order.frames:
        return None
    before, after = (failed(outputs, batch).numpy().astype(bool) for outputs, batch in (reference, other))
    return count_flips(before, after, bench.groups(reference[1]))


def _tensors(ours: Outputs, theirs: Outputs) -> Iterator[TensorAgreement]:
    for a, b in zip(flatten(ours)[0], flatten(theirs)[0], strict=True):
        yield compare_tensors(a.numpy(), b.numpy())
