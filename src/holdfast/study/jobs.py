"""The jobs of a study, as plain functions that a worker process runs: tables, trainings, probes, the showcase."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from holdfast.core.config import Study
from holdfast.core.contracts import Measurement, Picture, Subject, Task
from holdfast.core.discover import build, load_task
from holdfast.data.table import Table, materialise, open_table
from holdfast.deploy.subjects import open_subject
from holdfast.probes.bench import Bench, RunLabel
from holdfast.study.plan import MeasureCell, Plan, TableCell, TrainCell, make_plan, methods_of
from holdfast.train.loop import TrainingRun, build_initial, train
from holdfast.train.objective import Objective
from holdfast.weights import files

__all__ = ["Context", "Showcase", "make_tables", "run_probe", "run_showcase", "run_training", "weights_path"]

Advance = Callable[[int, str], None]
CALIBRATION_SAMPLES = 128


@dataclass(frozen=True, kw_only=True)
class Context:
    """What every job needs: the study, the folder its task file is relative to, and the run folder."""

    study: Study
    base: Path
    out: Path

    def task(self) -> Task:
        """The study's task, loaded once per process."""
        return _load(self.study.task, repr(sorted(self.study.task_options.items())), self)

    def plan(self) -> Plan:
        """The study's plan, made once per process."""
        return _plan(self)

    def __hash__(self) -> int:
        return hash((self.study.name, self.base, self.out))

    def table_folder(self, key: str) -> Path:
        """Where a table lies."""
        return self.out / "tables" / key

    def table(self, split: str, pipeline: str) -> Table | None:
        """A table of the plan, or None where the task has no such split."""
        key = self.plan().table_key(split, pipeline)
        return None if key is None else open_table(self.table_folder(key))


@lru_cache(maxsize=1)
def _load(spec: str, options: str, context: Context) -> Task:
    return load_task(spec, context.study.task_options, base=context.base)


@lru_cache(maxsize=1)
def _plan(context: Context) -> Plan:
    return make_plan(context.study, context.task(), base=context.base)


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
        advance=advance,
    )
    weights, facts = train(task, objective, run)
    for name, state in weights.items():
        about = {"kind": name, "recipe": cell.recipe, "study": study.name,
                 "init_seed": str(cell.init_seed), "order_seed": str(cell.order_seed)}  # fmt: skip
        files.save(weights_path(context.out, cell, name), state, about)
    return list(_training_rows(context, cell, objective, facts))


def run_probe(context: Context, cell: MeasureCell, advance: Advance) -> list[Measurement]:
    """Run one probe on every kind of weights of a training."""
    measurements: list[Measurement] = []
    probe = build("probe", cell.probe)
    for weights in ("last", *context.study.recipes[cell.training.recipe].averages):
        measurements += probe.run(bench_of(context, cell.training, weights))
        advance(1, weights)
    return measurements


@dataclass(frozen=True, kw_only=True)
class Showcase:
    """Pictures and curves of one training for the report."""

    recipe: str
    weights: str
    pictures: tuple[Picture, ...]
    series: dict[str, np.ndarray]
    worst: tuple[int, ...]


def run_showcase(context: Context, cell: TrainCell, weights: str, frames: Sequence[int], advance: Advance) -> Showcase:
    """Draw frames of the ``report`` split under the first and the second pipeline, and the traces of a sequence.

    Args:
        context: the study.
        cell: the training to show.
        weights: which of its weights.
        frames: indices of the frames to draw; empty: the three on which the two pipelines differ most.
        advance: progress.
    """
    bench, task = bench_of(context, cell, weights), context.task()
    reference, deployed = (
        context.study.preprocessing[0],
        context.study.preprocessing[-1 if len(context.study.preprocessing) < 2 else 1],
    )
    outputs = {name: bench.outputs(bench.eager, "report", name) for name in (reference, deployed)}
    if not frames:
        frames = _worst(bench, outputs[reference], outputs[deployed])
    roles = {"reference": outputs[reference], "deployed": outputs[deployed]}
    pictures: list[Picture] = []
    if task.picture is not None:
        from holdfast.data.table import sensor_batch

        data = task.data("report")
        pictures = [task.picture(sensor_batch(data, [i]), _one(roles, i), 0) for i in frames]
    advance(1, "")
    return Showcase(recipe=cell.recipe, weights=weights, pictures=tuple(pictures),
                    series=_traces(bench, reference, deployed), worst=tuple(frames))  # fmt: skip


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
    )


def _stripped(context: Context, training: TrainCell, weights: str) -> nn.Module:
    """The deployable model with trained weights, in eval mode."""
    objective = _objective(context, training)
    model = build_initial(context.task(), training.init_seed)
    if objective.surgery:
        model = objective.strip(
            objective.prepare(model, _required(context.table("train", "train")).batch(torch.arange(2)))
        )
    state, _ = files.load(weights_path(context.out, training, weights))
    model.load_state_dict(state)
    return model.eval()


def _objective(context: Context, cell: TrainCell) -> Objective:
    recipe = context.study.recipes[cell.recipe]
    return Objective(
        context.task(),
        methods_of(context.study, cell.recipe),
        surgery=tuple(build("surgery", plug_in) for plug_in in recipe.surgery),
        perturbation=build("method", recipe.perturbation) if recipe.perturbation else None,
        seed=cell.order_seed,
    )


def _open_subjects(context: Context, model: nn.Module) -> list[Subject]:
    task = context.task()
    table = context.table("calibration", "train") or _required(context.table("train", "train"))
    example = task.inputs(table.batch(torch.arange(2)))
    # Spread over the split: the first frames of a recording resemble one another.
    chosen = torch.linspace(0, len(table) - 1, min(CALIBRATION_SAMPLES, len(table))).long()
    calibration = [task.inputs(table.batch(part)) for part in chosen.split(16)]
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
    for metric, (value, unit) in quantities.items():
        yield bench.measurement(
            probe="train", subject=bench.eager, preprocessing="train", split="train", metric=metric, unit=unit,
            better="lower", values=np.array([value]), groups=np.zeros(1, dtype=np.int64),
        )  # fmt: skip


def _worst(bench: Bench, reference: Any, deployed: Any, count: int = 3) -> tuple[int, ...]:
    """Frames of ``report`` on which the two pipelines differ most, one per group so that they are not neighbours."""
    drifts = [drift for drift in bench.task.drifts if drift.over == "sample"]
    if not drifts:
        return tuple(range(min(count, len(_required(bench.table("report", bench.preprocessing[0]))))))
    batch = bench.batch("report", bench.preprocessing[0])
    values, groups = bench.values(drifts[0], (reference, deployed), batch)
    order = torch.argsort(torch.nan_to_num(values, nan=-1.0), descending=True).tolist()
    chosen: list[int] = []
    for index in order:
        if all(groups[index] != groups[other] for other in chosen):
            chosen.append(index)
        if len(chosen) == count:
            break
    return tuple(chosen)


def _traces(bench: Bench, reference: str, deployed: str) -> dict[str, np.ndarray]:
    """Curves over the first sequence: ``truth``, ``reference`` and ``deployed``."""
    traces, split = bench.task.traces, "report_sequence"
    if traces is None or bench.table(split, reference) is None:
        return {}
    found: dict[str, np.ndarray] = {}
    for role, pipeline in (("reference", reference), ("deployed", deployed)):
        batch, outputs = bench.batch(split, pipeline), bench.outputs(bench.eager, split, pipeline)
        first = torch.from_numpy(np.flatnonzero(bench.groups(batch) == 0))
        for name, curve in traces(_at(outputs, first), _at(batch, first)).items():
            found["truth" if name == "truth" else f"{role}: {name}"] = curve.detach().numpy()
    return found


def _one(roles: dict[str, Any], index: int) -> dict[str, Any]:
    return {role: _at(nest, torch.tensor([index])) for role, nest in roles.items()}


def _at(nest: Any, indices: Tensor) -> Any:
    return tree_map(lambda t: t[indices], nest)


def _required(table: Table | None) -> Table:
    assert table is not None
    return table
