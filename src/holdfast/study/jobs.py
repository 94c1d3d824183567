"""The jobs of a study, as plain functions that a worker process runs: tables, trainings, probes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from holdfast.core.config import Study
from holdfast.core.contracts import Measurement, Subject, Task, UsesUnlabelled
from holdfast.core.discover import build, load_task
from holdfast.core.errors import InputError
from holdfast.core.options import call
from holdfast.data.table import Table, materialise, open_table, spread
from holdfast.deploy.subjects import open_subject
from holdfast.probes.bench import Bench, RunLabel
from holdfast.study.averages import settle_averages
from holdfast.study.plan import MeasureCell, Plan, TableCell, TrainCell, methods_of
from holdfast.train.guard import Guard
from holdfast.train.loop import EXAMPLE_SAMPLES, TrainingRun, build_initial, train
from holdfast.train.objective import Objective
from holdfast.train.stream import Shuffled
from holdfast.weights import files

__all__ = ["Context", "bench_of", "make_tables", "run_probe", "run_training", "study_task", "weights_path"]

Advance = Callable[[int, str], None]
CALIBRATION_SAMPLES = 128
REDRAW_SEEDS = 2**31


@dataclass(frozen=True, kw_only=True)
class Context:
    """What every job needs: the study, its cells, the folder its task file is relative to, and the run folder."""

    study: Study
    plan: Plan
    base: Path
    out: Path

    def task(self) -> Task:
        """The study's task, loaded once per process."""
        return study_task(self.study, self.base)

    def table_folder(self, key: str) -> Path:
        """Where a table lies."""
        return self.out / "tables" / key

    def table(self, split: str, pipeline: str) -> Table | None:
        """A table of the plan, or None where the task has no such split."""
        key = self.plan.table_key(split, pipeline)
        return None if key is None else open_table(self.table_folder(key))


def study_task(study: Study, base: Path) -> Task:
    """The task of a study, loaded once per process."""
    return _load(study.task, json.dumps(study.task_options, sort_keys=True), base)


@lru_cache(maxsize=1)
def _load(spec: str, options: str, base: Path) -> Task:
    return load_task(spec, json.loads(options), base=base)


def weights_path(out: Path, training: TrainCell, weights: str) -> Path:
    """Where the weights of a training lie."""
    return out / "weights" / training.key / f"{weights}.safetensors"


# --- the jobs -------------------------------------------------------------------------------------------


def make_tables(context: Context, cell: TableCell, advance: Advance) -> None:
    """Load a split once and store it under all its pipelines."""
    folders = {pipeline: context.table_folder(key) for pipeline, key in cell.keys.items()}
    materialise(context.task(), cell.split, list(cell.keys), folders, lambda n: advance(n, ""))


def run_training(context: Context, cell: TrainCell, advance: Advance) -> list[Measurement]:
    """Train, save every state dict with what it is, and report cost and final loss as rows."""
    task, study, recipe = context.task(), context.study, context.study.recipes[cell.recipe]
    objective = _objective(context, cell)
    table = context.table("train", "train")
    assert table is not None
    names = sorted({name for method in objective.methods for name in getattr(method, "variants", ())})
    run = TrainingRun(
        table=table,
        variants={name: _required(context.table("train", name)) for name in names},
        training=study.training_of(cell.recipe),
        averages={name: build("average", {name: options}) for name, options in recipe.averages.items()},
        init_seed=cell.init_seed,
        order_seed=cell.order_seed,
        checkpoint=context.out / "checkpoints" / f"{cell.key}.pt",
        **_guard(context, recipe.guard),
        advance=advance,
    )
    weights, facts = train(task, objective, run)
    records: dict[str, dict[str, Any]] = {}
    if recipe.averages:
        weights, records = settle_averages(recipe, task, _deployable(context, cell), weights, train=table,
                                           val=context.table("val", "train"))  # fmt: skip
    for name, state in weights.items():
        about = {"kind": name, "recipe": cell.recipe, "study": study.name, "init_seed": str(cell.init_seed),
                 "order_seed": str(cell.order_seed), **records.get(name, {})}  # fmt: skip
        files.save(weights_path(context.out, cell, name), state, about)
    return list(_training_rows(context, cell, objective, facts))


def run_probe(context: Context, cell: MeasureCell, advance: Advance) -> list[Measurement]:
    """Run one probe on every kind of weights of a training."""
    measurements: list[Measurement] = []
    probe = build("probe", cell.probe)
    for weights in context.study.recipes[cell.training.recipe].kinds:
        bench = bench_of(context, cell.training, weights)
        bench.scratch = context.out / "checkpoints" / f"{cell.key}-{weights}.npz"
        measurements += probe.run(bench)
        advance(1, weights)
    return measurements


# --- pieces ---------------------------------------------------------------------------------------------


def bench_of(context: Context, training: TrainCell, weights: str) -> Bench:
    """The bench of one kind of weights of a training."""
    model = _stripped(context, training, weights)
    initial = weights_path(context.out, training, "init")
    label = RunLabel(study=context.study.name, recipe=training.recipe, init_seed=training.init_seed,
                     order_seed=training.order_seed, weights=weights)  # fmt: skip
    return Bench(
        label=label,
        task=context.task(),
        model=model,
        open_table=context.table,
        open_subjects=partial(_open_subjects, context, model),
        preprocessing=context.study.preprocessing,
        initial=files.load(initial)[0] if initial.exists() else None,
        redraw=partial(_redrawn, context, training),
    )


def _stripped(context: Context, training: TrainCell, weights: str) -> nn.Module:
    """The deployable model with trained weights, in eval mode."""
    model = _deployable(context, training)
    state, _ = files.load(weights_path(context.out, training, weights))
    model.load_state_dict(state)
    return model.eval()


def _deployable(context: Context, training: TrainCell) -> nn.Module:
    """An instance of the deployable model."""
    objective = _objective(context, training)
    model = build_initial(context.task(), training.init_seed)
    if objective.surgery:
        model = objective.strip(
            objective.prepare(model, _required(context.table("train", "train")).batch(torch.arange(2)))
        )
    return model


def _redrawn(context: Context, training: TrainCell, seed: int) -> dict[str, Tensor]:
    """Weights as this recipe's training could have begun with them, under a seed that no training uses."""
    objective, table = _objective(context, training), _required(context.table("train", "train"))
    fresh = REDRAW_SEEDS + seed
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fresh)
        example = table.batch(torch.arange(min(EXAMPLE_SAMPLES, len(table))))
        model = objective.strip(objective.prepare(build_initial(context.task(), fresh), example))
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _guard(context: Context, options: dict[str, Any] | None) -> dict[str, Any]:
    """The guard of a recipe and the samples it watches, spread over the ``val`` split."""
    if options is None:
        return {}
    guard = call(Guard, options, where="guard", build=build)
    table = context.table("val", "train")
    if table is None:
        raise InputError("no split 'val'", where="guard", fix="give the task a val split, or drop the guard")
    indices = spread(len(table), guard.samples)
    return {"guard": guard, "held_out": table.batch(indices)}


def _objective(context: Context, cell: TrainCell) -> Objective:
    recipe, methods = context.study.recipes[cell.recipe], methods_of(context.study, cell.recipe)
    unlabelled = None
    if any(isinstance(method, UsesUnlabelled) and method.uses_unlabelled for method in methods):
        table, size = _required(context.table("unlabelled", "train")), context.study.training_of(cell.recipe).batch_size
        unlabelled = Shuffled(table, size, seed=cell.order_seed)
    return Objective(
        context.task(),
        methods,
        unlabelled=unlabelled,
        surgery=tuple(build("surgery", plug_in) for plug_in in recipe.surgery),
        perturbation=build("method", recipe.perturbation) if recipe.perturbation else None,
        seed=cell.order_seed,
    )


def _open_subjects(context: Context, model: nn.Module) -> list[Subject]:
    task = context.task()
    table = context.table("calibration", "train") or _required(context.table("train", "train"))
    example = task.inputs(table.batch(torch.arange(2)))
    chosen = spread(len(table), CALIBRATION_SAMPLES)
    calibration = [task.inputs(table.batch(part)) for part in torch.tensor_split(chosen, len(chosen) // 16 or 1)]
    return [
        open_subject(spec, model, example, calibration, context.out / "artefacts") for spec in context.study.subjects
    ]


def _training_rows(
    context: Context, cell: TrainCell, objective: Objective, facts: dict[str, float]
) -> Iterator[Measurement]:
    forwards, backwards = objective.passes()
    label = RunLabel(study=context.study.name, recipe=cell.recipe, init_seed=cell.init_seed,
                     order_seed=cell.order_seed, weights="last")  # fmt: skip
    bench = Bench(label=label, task=context.task(), model=nn.Identity(), open_table=context.table,
                  open_subjects=list, preprocessing=context.study.preprocessing)  # fmt: skip
    # A plain step is one forward and one backward; a backward costs about as much as two forwards.
    relative = (forwards + 2 * backwards) / 3
    quantities: dict[str, tuple[float, str]] = {
        "train_cost": (relative, "plain steps"),
        "train_cpu": (facts["cpu_s"], "s"),
        "train_loss": (facts["final_loss"], "1"),
    }
    if "guard_rollbacks" in facts:
        quantities["guard_rollbacks"] = (facts["guard_rollbacks"], "1")
    for metric, (value, unit) in quantities.items():
        yield bench.measurement(
            probe="train", subject=bench.eager, preprocessing="train", split="train", metric=metric, unit=unit,
            better="lower", values=np.array([value]), groups=np.zeros(1, dtype=np.int64),
        )  # fmt: skip


def _required(table: Table | None) -> Table:
    assert table is not None
    return table
