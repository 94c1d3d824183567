"""Diagnose: every probe that can run, each contained, what is finished kept; then findings and treatments."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.core.errors import BackendError, ClashError, HoldfastError, InputError, NoEffectError
from holdfast.core.fingerprint import environment
from holdfast.core.progress import Progress
from holdfast.core.rows import Row
from holdfast.core.store import RunFolder
from holdfast.diagnose.findings import Finding, find
from holdfast.diagnose.order import Order
from holdfast.diagnose.patient import Patient, open_patient
from holdfast.diagnose.plan import Planned, Skipped, make_plan
from holdfast.diagnose.treatments import Treatment, prescribe
from holdfast.diagnose.work import Done, run_probe
from holdfast.probes.bench import BATCH
from holdfast.study.workers import Failure, Job, WorkerDiedError, run_jobs

__all__ = ["Diagnosis", "Entry", "diagnose"]

DOES_NOT_APPLY = (InputError, NoEffectError, ClashError, BackendError)
"""Refusals with a reason: the question cannot be asked of this task or subject, and nothing went wrong."""
GRACE_S = 6.0
"""How long a probe may go on after its time is over before its process is ended."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What became of a probe: ``ran``, ``cut`` (short), ``failed`` or ``skipped``; with reason and notes."""

    probe: str
    state: str
    rows: int = 0
    on: str = "subject"
    reason: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Everything a diagnosis found; no weights and no images, so that it can be shared.

    Args:
        task, subject: what was diagnosed; ``subject`` as rows name it.
        file: what the subject was opened from, without its folder.
        notes: of the back-end.
        pipelines: measured under, the reference first.
        findings: by damage, the worst first.
        entries: one per probe.
        treatments: for the findings, the most urgent first.
        rows: everything measured.
        quick: whether it was a first look only.
        environment: versions and hardware.
    """

    task: str
    subject: str
    file: str
    notes: tuple[str, ...]
    pipelines: tuple[str, ...]
    findings: tuple[Finding, ...]
    entries: tuple[Entry, ...]
    treatments: tuple[Treatment, ...]
    rows: tuple[Row, ...]
    quick: bool
    environment: Mapping[str, Any]

    @property
    def exit_code(self) -> int:
        """1: as it would ship it is damaged; 3: some probes failed or were cut short; 0: neither."""
        if any(finding.as_shipped and finding.breaks for finding in self.findings):
            return 1
        return 3 if any(entry.state in ("failed", "cut") for entry in self.entries) else 0


def diagnose(order: Order, *, workers: int = 2, quiet: bool = False) -> tuple[Diagnosis, Patient]:
    """Measure and explain; the same call after an interruption does only what is missing.

    Args:
        order: what is asked for.
        workers: single-thread worker processes; 0: in this process, which a native crash then takes along.
        quiet: no progress.

    Returns:
        What was found, and the subject as it was opened.

    Raises:
        InputError: a subject, task, split, pipeline or probe that is not there or is refused.
        BackendError: a graph that ONNX Runtime does not run.
    """
    began = time.time()
    with RunFolder(order.out) as folder, Progress(quiet=quiet) as progress:
        patient = open_patient(order)
        planned, skipped = make_plan(order, patient)
        deadline = None if order.seconds is None else began + order.seconds
        running = _Running(order=order, folder=folder, workers=workers, progress=progress, deadline=deadline)
        entries = _run(running, planned)
        rows = folder.rows(_cells(folder, planned))
        found = find(patient.task, rows, folder.samples, subject=patient.name, tolerance=order.tolerance)
        diagnosis = Diagnosis(
            task=patient.task.name, subject=patient.name, file=order.path.name,
            notes=patient.session.notes if patient.session else (), pipelines=patient.pipelines,
            findings=tuple(found), entries=(*entries, *map(_not_run, skipped)),
            treatments=tuple(prescribe(found)), rows=tuple(rows), quick=order.quick, environment=environment(),
        )  # fmt: skip
        return diagnosis, patient


def _not_run(skipped: Skipped) -> Entry:
    return Entry(probe=skipped.name, state="skipped", reason=skipped.reason)


# --- running, contained -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Running:
    """What the steps below share."""

    order: Order
    folder: RunFolder
    workers: int
    progress: Progress
    deadline: float | None


def _run(running: _Running, planned: Sequence[Planned]) -> list[Entry]:
    """Run what is not finished yet and keep it; one entry per probe, in the order of the plan."""
    failed: dict[str, Failure] = {}
    for plan, result in _results(running, [plan for plan in planned if not running.folder.finished(plan.key)]):
        if isinstance(result, Failure):
            failed[plan.key] = result
            running.progress.say(f"{plan.name}: {result.reason}")
        elif result is not None:
            cell = f"{plan.key}.cut" if result.cut else plan.key
            running.folder.commit(cell, result.measurements, {"notes": list(result.notes)})
    return [_entry(running.folder, plan, failed.get(plan.key)) for plan in planned]


def _results(running: _Running, missing: Sequence[Planned]) -> Iterator[tuple[Planned, Done | Failure | None]]:
    """Results as they come; when a worker dies, what is left is run alone, one process each."""
    if running.workers == 0:
        for plan in missing:
            yield plan, _here(running, plan)
        return
    left = {plan.name: plan for plan in missing}
    try:
        for job, result in run_jobs(
            [_job(running, plan, BATCH) for plan in missing], workers=running.workers, progress=running.progress,
            until=_until(running),
        ):  # fmt: skip
            yield left.pop(job.name), result
    except WorkerDiedError:
        for plan in list(left.values()):
            yield plan, _alone(running, plan)


def _here(running: _Running, plan: Planned) -> Done | Failure | None:
    work = running.progress.add(plan.name)
    try:
        return run_probe(running.order, plan, running.deadline, BATCH,
                         lambda n, note: running.progress.advance(work, n, note=note))  # fmt: skip
    except HoldfastError as error:
        return Failure(reason=str(error), error=error, trace=traceback.format_exc())
    except Exception as error:  # a plug-in may raise anything; the other probes go on
        return Failure(reason=f"{type(error).__name__}: {error}", trace=traceback.format_exc())
    finally:
        running.progress.finish(work)


def _alone(running: _Running, plan: Planned) -> Done | Failure | None:
    """A probe in a process of its own and in small pieces: if that dies too, it was this probe."""
    try:
        [(_, result)] = run_jobs([_job(running, plan, BATCH // 4)], workers=1, progress=running.progress,
                                 until=_until(running))  # fmt: skip
    except WorkerDiedError:
        return Failure(reason="its process died: out of memory, or native code crashed")
    found: Done | Failure | None = result
    return found


def _job(running: _Running, plan: Planned, piece: int) -> Job:
    arguments = (running.order, plan, running.deadline, piece)
    return Job(name=plan.name, call=run_probe, arguments=arguments, units=None)


def _until(running: _Running) -> float | None:
    return None if running.deadline is None else running.deadline + GRACE_S


def _cells(folder: RunFolder, planned: Sequence[Planned]) -> set[str]:
    """Cells whose rows count: of finished probes, and of those that were cut short."""
    return {plan.key if folder.finished(plan.key) else f"{plan.key}.cut" for plan in planned}


def _entry(folder: RunFolder, plan: Planned, failure: Failure | None) -> Entry:
    [cell] = _cells(folder, [plan])
    rows = len(folder.rows({cell}))
    notes = tuple(folder.facts(cell)["notes"]) if folder.finished(cell) else ()
    if failure is not None:
        state = "skipped" if isinstance(failure.error, DOES_NOT_APPLY) else "cut" if failure.late else "failed"
        return Entry(probe=plan.name, state=state, rows=rows, on=plan.on, reason=failure.reason)
    if folder.finished(plan.key):
        return Entry(probe=plan.name, state="ran", rows=rows, on=plan.on, notes=notes)
    reason = "its time was over before it ended" if rows else "the time was over before it began"
    return Entry(probe=plan.name, state="cut", rows=rows, on=plan.on, reason=reason, notes=notes)
