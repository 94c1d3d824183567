"""One probe of a diagnosis, as a plain function that a worker process runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from holdfast.core.contracts import Measurement, Outputs, Probe, Subject
from holdfast.core.discover import build
from holdfast.core.errors import BackendError
from holdfast.core.fingerprint import config_hash
from holdfast.data.table import spread
from holdfast.deploy.subjects import open_subject
from holdfast.diagnose.order import Order
from holdfast.diagnose.patient import Patient, open_patient
from holdfast.diagnose.plan import Planned
from holdfast.probes.bench import BATCH, Bench, RunLabel
from holdfast.probes.conduct import Witness
from holdfast.probes.memory import out_of_memory

__all__ = ["Done", "run_probe"]

SUBJECTS = ("eager:fp32", "emulated:fp16", "onnxruntime:fp32", "onnxruntime:int8")
QUICK_SUBJECTS = ("eager:fp32", "emulated:fp16", "onnxruntime:int8")
CALIBRATION_SAMPLES = 64
LABEL = RunLabel(study="diagnose", recipe="subject", init_seed=0, order_seed=0, weights="last")

Advance = Callable[[int, str], None]


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a probe gave.

    Args:
        measurements: in its order.
        notes: what a reader should know: that it was cut short, that memory did not suffice, what it left changed.
        cut: it had not ended when its time was over.
    """

    measurements: tuple[Measurement, ...]
    notes: tuple[str, ...] = ()
    cut: bool = False


def run_probe(order: Order, planned: Planned, deadline: float | None, piece: int, advance: Advance) -> Done | None:
    """Run a probe, halving the batch whenever the memory does not suffice.

    Args:
        order: the order; the subject is opened once per process.
        planned: the probe.
        deadline: in seconds of `time.time`: no further row is waited for after that.
        piece: samples that are run at once to begin with.
        advance: counts rows.

    Returns:
        What it gave; None where its time was over before it began.
    """
    if deadline is not None and time.time() > deadline:
        return None
    patient = _patient(order)
    notes: list[str] = []
    with ExitStack() as closing:
        while True:
            bench = bench_of(order, patient, planned.on, closing, notes)
            bench.piece, bench.scratch = piece, order.out / "scratch" / f"{planned.key}.npz"
            try:
                rows = _in_pieces(build("probe", planned.spec), piece).run(bench)
                found, cut = _watched(bench.model, partial(_until, rows, deadline, advance), notes)
                break
            except Exception as error:  # allocators have no common error
                if not out_of_memory(error) or piece == 1:
                    raise
                piece = max(1, min(piece, bench.piece) // 2)
        if bench.piece < BATCH:
            notes.append(f"the memory did not suffice: run in pieces of {bench.piece} samples")
    if cut:
        notes.append("cut short: its time was over")
    return Done(measurements=tuple(found), notes=tuple(notes), cut=cut)


def _in_pieces(probe: Probe, piece: int) -> Probe:
    """A probe that has a say in how many samples it takes at once takes at most that many."""
    own = getattr(probe, "piece", None)
    return replace(probe, piece=min(own, piece)) if isinstance(own, int) else probe  # type: ignore[type-var]  # a dataclass


def _until(rows: Iterable[Measurement], deadline: float | None, advance: Advance) -> tuple[list[Measurement], bool]:
    found = []
    for measurement in rows:
        found.append(measurement)
        advance(1, measurement.row.condition)
        if deadline is not None and time.time() > deadline:
            return found, True
    return found, False


def _watched(
    model: nn.Module, work: Callable[[], tuple[list[Measurement], bool]], notes: list[str]
) -> tuple[list[Measurement], bool]:
    """The work, after which the model is as it was: the next probe must not inherit what this one did."""
    witness = Witness.of(model)
    try:
        return work()
    finally:
        if changed := witness.differences(model):
            witness.restore(model)
            notes.append(f"left changed and was undone: {', '.join(changed[:3])}")


# --- the bench ------------------------------------------------------------------------------------------


class _Sealed(nn.Module):
    """A session in the place of a model: it can be called and has nothing else."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self._subject = subject

    def forward(self, *inputs: Tensor) -> Outputs:
        return self._subject.run(*inputs)


def bench_of(order: Order, patient: Patient, on: str, closing: ExitStack, notes: list[str]) -> Bench:
    """The bench on which the subject itself, or its twin, is measured.

    Args:
        order: the order.
        patient: what is diagnosed.
        on: ``subject`` or ``twin``.
        closing: releases what is opened.
        notes: takes what could not be opened.
    """
    session, model = patient.session, patient.model
    stands_in = session is not None and on == "subject"
    if stands_in or model is None:
        assert session is not None
        model = _Sealed(session)
    return Bench(
        label=LABEL, task=patient.task, model=model, open_table=patient.tables.open,
        open_subjects=partial(_subjects, order, patient, on, closing, notes), preprocessing=patient.pipelines,
        initial=patient.initial, stand_in=session if stands_in else None,
    )  # fmt: skip


def _subjects(
    order: Order, patient: Patient, on: str, closing: ExitStack, notes: list[str]
) -> list[Subject]:  # fmt: skip
    """The subjects to compare: a session with its twin, or the weights in several precisions."""
    model, session = patient.model, patient.session
    if session is not None:
        if model is None:
            return [session]
        eager = Subject(backend="eager", precision="fp32", executed="fp32", run=model, model=model)
        return [session, eager] if on == "subject" else [eager, session]
    assert model is not None
    example, calibration = _examples(order, patient)
    opened = []
    for spec in order.subjects or (QUICK_SUBJECTS if order.quick else SUBJECTS):
        try:
            subject = open_subject(spec, model, example, calibration, order.out / "artefacts")
        except BackendError as error:
            if spec in order.subjects:
                raise
            notes.append(f"{spec} was left out: {error}")  # nobody asked for it, and it does not run here
            continue
        closing.callback(subject.close)
        opened.append(subject)
    return opened


def _examples(order: Order, patient: Patient) -> tuple[tuple[Tensor, ...], list[tuple[Tensor, ...]]]:
    task, pipeline = patient.task, patient.pipelines[0]
    tables = [patient.tables.open(split, pipeline) for split in ("calibration", "train", order.split)]
    table = next(found for found in tables if found is not None)
    chosen = spread(len(table), CALIBRATION_SAMPLES)
    parts = [task.inputs(table.batch(chosen[i : i + 16])) for i in range(0, len(chosen), 16)]
    return task.inputs(table.batch(torch.arange(min(2, len(table))))), parts


_opened: dict[str, Patient] = {}


def _patient(order: Order) -> Patient:
    """The patient, opened once per process."""
    key = config_hash(order)
    if key not in _opened:
        _opened.clear()
        _opened[key] = open_patient(order)
    return _opened[key]
