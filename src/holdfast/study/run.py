"""Run a study: what is finished is kept, what is missing is done, then select, check the gates and report."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from holdfast.core.config import Study, parse_study
from holdfast.core.errors import HoldfastError, NonFiniteError
from holdfast.core.fingerprint import config_hash, environment
from holdfast.core.progress import Progress
from holdfast.core.store import RunFolder
from holdfast.study import jobs as work
from holdfast.study.conclude import Outcome, Shows, conclude
from holdfast.study.plan import MeasureCell, Plan, TableCell, TrainCell, make_plan
from holdfast.study.showcase import Showcase, run_showcase
from holdfast.study.workers import Failure, Job, run_jobs

__all__ = ["Outcome", "report_again", "run_study"]


@dataclass(frozen=True, kw_only=True)
class _Running:
    """A study on its way: everything the steps below share."""

    context: work.Context
    folder: RunFolder
    workers: int
    progress: Progress


def run_study(study: Study, *, base: Path, out: Path, workers: int = 2, quiet: bool = False) -> Outcome:
    """Run a study to its report; the same call after an interruption does only what is missing.

    Args:
        study: the study.
        base: folder to which a task file is relative.
        out: run folder; made when missing.
        workers: single-thread worker processes.
        quiet: no progress.

    Raises:
        InputError: the task, its data or the recipes are wrong, or the run folder cannot be used.
        HoldfastError: a worker process died.
    """
    base, out = base.resolve(), out.resolve()
    with RunFolder(out) as folder, Progress(quiet=quiet) as progress:
        plan = make_plan(study, work.study_task(study, base), base=base)
        context = work.Context(study=study, plan=plan, base=base, out=out)
        folder.put_json("study.json", {"study": study, "base": base, "plan": plan})
        running = _Running(context=context, folder=folder, workers=workers, progress=progress)
        _compute(running)
        return conclude(context, folder, show=_showcase(context))


def report_again(out: Path, *, base: Path | None = None) -> Outcome:
    """Judge and report once more what a run folder holds; nothing is trained or measured.

    Its cells are those of the last run, also when the source or the data have changed since.

    Args:
        out: the run folder.
        base: folder to which a task file is relative; None: where it was when the study ran.

    Raises:
        InputError: no run folder, or the task that draws its pictures is not there any more.
    """
    with RunFolder(out, writer=False) as folder:
        record = json.loads(folder.path("study.json").read_text(encoding="utf-8"))
        study = parse_study(record["study"], where=str(folder.path("study.json")))
        plan = TypeAdapter(Plan).validate_python(record["plan"])
        context = work.Context(study=study, plan=plan, base=base or Path(record["base"]), out=out.resolve())
        return conclude(context, folder, show=_showcase(context))


def _compute(running: _Running) -> None:
    """Do every job that is missing and commit what comes back, with the environment that made it."""
    provenance = _record_environment(running.folder)
    for job, result in run_jobs(list(_missing(running)), workers=running.workers, progress=running.progress):
        cell = job.arguments[1]
        if isinstance(result, Failure):
            _settle_failure(running, cell, result)
        elif not isinstance(cell, TableCell):
            stamped = [replace(m, row=replace(m.row, provenance=provenance)) for m in result]
            running.folder.commit(cell.key, stamped, {"name": cell.name})


def _record_environment(folder: RunFolder) -> str:
    """Write down versions, commit and hardware; the key under which rows refer to them."""
    found = environment()
    key = config_hash({name: value for name, value in found.items() if name != "time"})
    if not folder.path("provenance", f"{key}.json").exists():
        folder.put_json(f"provenance/{key}.json", found)
    return key


def _settle_failure(running: _Running, cell: Any, failure: Failure) -> None:
    """A diverged training is a result; a probe that crashed is one too; a wrong table or recipe stops the study."""
    if failure.skipped:
        return
    if isinstance(failure.error, NonFiniteError) or isinstance(cell, MeasureCell):
        running.folder.fail(cell.key, failure.reason, {"name": cell.name, "trace": failure.trace})
        running.progress.say(f"{cell.name} failed: {failure.reason}")
        return
    if failure.error is not None:
        raise failure.error
    raise HoldfastError(failure.reason, where=cell.name, fix="see the traceback with --debug") from RuntimeError(
        failure.trace
    )


def _missing(running: _Running) -> Iterator[Job]:
    """Jobs for every cell without rows, and for the tables and weights those need."""
    context, plan, folder = running.context, running.context.plan, running.folder
    measures = [cell for cell in plan.measurements if not folder.finished(cell.key)]
    needing_weights = {cell.training.key for cell in measures}
    trainings = [cell for cell in plan.trainings if _must_train(running, cell, needing_weights)]
    if not measures and not trainings:
        return
    tables = [cell for cell in plan.tables if not _complete(context, cell)]
    for table in tables:
        yield Job(name=table.name, call=work.make_tables, arguments=(context, table), units=table.length)
    needs = frozenset(cell.name for cell in tables)
    for training in trainings:
        yield Job(name=training.name, call=work.run_training, arguments=(context, training), needs=needs,
                  units=_steps(context, plan, training))  # fmt: skip
    for cell in measures:
        units = len(context.study.recipes[cell.training.recipe].kinds)
        if cell.training.key not in folder.failures():
            yield Job(name=cell.name, call=work.run_probe, arguments=(context, cell),
                      needs=needs | {cell.training.name}, units=units)  # fmt: skip


def _must_train(running: _Running, cell: TrainCell, needing_weights: set[str]) -> bool:
    if cell.key in running.folder.failures():
        return False
    weights = work.weights_path(running.context.out, cell, "last")
    return not running.folder.finished(cell.key) or (cell.key in needing_weights and not weights.exists())


def _complete(context: work.Context, cell: TableCell) -> bool:
    return all((context.table_folder(key) / "columns.json").exists() for key in cell.keys.values())


def _steps(context: work.Context, plan: Plan, cell: TrainCell) -> int:
    training = context.study.training_of(cell.recipe)
    length = next(table.length for table in plan.tables if table.split == "train")
    return max(1, length // training.batch_size * training.epochs)


def _showcase(context: work.Context) -> Shows:
    """Draws trainings in this process, which is quicker than starting a worker; needs their weights."""

    def show(cells: Sequence[tuple[TrainCell, str]], frames: Sequence[int]) -> list[Showcase]:
        return [
            run_showcase(context, cell, weights, frames)
            for cell, weights in cells
            if work.weights_path(context.out, cell, weights).exists()
        ]

    return show
