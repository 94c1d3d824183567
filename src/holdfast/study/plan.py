"""The plan: every cell of a study, keyed by a hash of everything that influences it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from holdfast.core.config import PlugIn, Study
from holdfast.core.contracts import Method, ReadsFiles, Task, UsesPlugIns, UsesUnlabelled, UsesVariants
from holdfast.core.discover import build, plugin_module, task_roots
from holdfast.core.errors import InputError
from holdfast.core.fingerprint import config_hash, file_hash, source_hash
from holdfast.data.table import sensor_batch

__all__ = ["MeasureCell", "Plan", "TableCell", "TrainCell", "make_plan", "methods_of"]

SPLITS = ("train", "val", "select", "report", "select_sequence", "report_sequence", "calibration")
CORE_OF_TRAINING = ("holdfast.train.loop", "holdfast.train.objective", "holdfast.study.averages")


@dataclass(frozen=True, kw_only=True)
class TableCell:
    """A split to be loaded once and stored under every pipeline; ``keys`` maps pipeline to the table's key."""

    split: str
    length: int
    keys: Mapping[str, str]

    @property
    def name(self) -> str:
        """For people."""
        return f"data {self.split}"


@dataclass(frozen=True, kw_only=True)
class TrainCell:
    """One recipe under one pair of seeds."""

    recipe: str
    init_seed: int
    order_seed: int
    key: str

    @property
    def name(self) -> str:
        """For people."""
        return f"train {self.recipe} ({self.init_seed}, {self.order_seed})"


@dataclass(frozen=True, kw_only=True)
class MeasureCell:
    """One probe on all weights of one training."""

    training: TrainCell
    probe: PlugIn
    key: str

    @property
    def name(self) -> str:
        """For people."""
        training = self.training
        return f"{next(iter(self.probe))} {training.recipe} ({training.init_seed}, {training.order_seed})"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All cells of a study in the order in which they should run."""

    tables: tuple[TableCell, ...]
    trainings: tuple[TrainCell, ...]
    measurements: tuple[MeasureCell, ...]

    def names(self) -> dict[str, str]:
        """Name by key of the cells whose rows belong to the study as it stands now; other rows are stale."""
        names = {cell.key: cell.name for cell in self.trainings}
        return names | {cell.key: cell.name for cell in self.measurements}

    def table_key(self, split: str, pipeline: str) -> str | None:
        """Key of a table, or None where the task has no such split."""
        return next((cell.keys[pipeline] for cell in self.tables if cell.split == split), None)


def make_plan(study: Study, task: Task, *, base: Path) -> Plan:
    """The cells of a study.

    Raises:
        InputError: an unknown pipeline, plug-in or option, or a task without the splits that a study needs.
    """
    _build_everything(study)
    for name in study.preprocessing:
        if name not in task.pipelines:
            raise InputError(f"no pipeline {name!r}", where="preprocessing", fix=f"one of {sorted(task.pipelines)}")
    tables = tuple(_table_cells(study, task, base))
    trained_on = {recipe: config_hash([dict(cell.keys) for cell in tables if cell.split in _splits_of(study, recipe)])
                  for recipe in study.recipes}  # fmt: skip
    measured_on = config_hash([dict(cell.keys) for cell in tables])
    recipe_keys = {recipe: _recipe_key(study, recipe, trained_on[recipe], base) for recipe in study.recipes}
    probe_keys = [_probe_key(study, probe, measured_on) for probe in study.probes]
    trainings = tuple(
        TrainCell(recipe=recipe, init_seed=init, order_seed=order, key=config_hash([key, init, order]))
        for init, order in study.seeds()
        for recipe, key in recipe_keys.items()
    )
    measurements = tuple(
        MeasureCell(training=training, probe=probe, key=config_hash([training.key, key]))
        for training in trainings
        for probe, key in zip(study.probes, probe_keys, strict=True)
    )
    return Plan(tables=tables, trainings=trainings, measurements=measurements)


def _build_everything(study: Study) -> None:
    """Build every plug-in once: a wrong option should not wait for its turn until the trainings are done."""
    for probe in study.probes:
        build("probe", probe)
    for recipe in study.recipes.values():
        for method in (*recipe.methods, *([recipe.perturbation] if recipe.perturbation else [])):
            build("method", method)
        for surgery in recipe.surgery:
            build("surgery", surgery)
        for name, options in recipe.averages.items():
            build("average", {name: options})


def methods_of(study: Study, recipe: str) -> tuple[Method, ...]:
    """The recipe's methods, built and checked."""
    return tuple(build("method", plug_in) for plug_in in study.recipes[recipe].methods)


# --- keys -----------------------------------------------------------------------------------------------


def _splits_of(study: Study, recipe: str) -> tuple[str, ...]:
    """The splits that influence the weights of a recipe."""
    body = study.recipes[recipe]
    watched = body.guard is not None or (body.averages and body.batchnorm == "auto")
    unlabelled = _reads_unlabelled(methods_of(study, recipe))
    return ("train", *(("unlabelled",) if unlabelled else ()), *(("val",) if watched else ()))


def _table_cells(study: Study, task: Task, base: Path) -> Iterable[TableCell]:
    methods = [method for recipe in study.recipes for method in methods_of(study, recipe)]
    variants = {name for method in methods if isinstance(method, UsesVariants) for name in method.variants}
    unlabelled = _reads_unlabelled(methods)
    shared = {
        "task": study.task,
        "options": study.task_options,
        "fingerprint": task.fingerprint,
        "source": source_hash([*task_roots(study.task, base=base), "holdfast.data.table"]),
        "versions": _versions("torch", "numpy"),
    }
    for split in (*SPLITS, *(("unlabelled",) if unlabelled else ())):
        try:
            data = task.data(split)
        except KeyError:
            if split in ("train", "report", "unlabelled"):
                reason = "a method reads it" if split == "unlabelled" else "train and report are needed"
                raise InputError(f"no split {split!r}", where=f"task {task.name!r}", fix=reason) from None
            continue
        sample = _sample_hash(data)
        pipelines = {"train", *study.preprocessing, *(variants if split == "train" else ())}
        if split in ("train", "unlabelled"):
            pipelines -= set(study.preprocessing) - {"train"} - variants
        unknown = pipelines - set(task.pipelines)
        if unknown:
            raise InputError(f"no pipeline {sorted(unknown)}", where="methods", fix=f"one of {sorted(task.pipelines)}")
        keys = {name: config_hash([shared, split, name, len(data), sample]) for name in sorted(pipelines)}
        yield TableCell(split=split, length=len(data), keys=keys)


def _sample_hash(data: Any) -> str:
    """Hash of the first and the last sample: enough to tell data sets apart without reading them whole."""
    batch = sensor_batch(data, sorted({0, len(data) - 1}) if len(data) else [])
    return config_hash([leaf.numpy().tobytes().hex() for leaf in tree_leaves(batch) if isinstance(leaf, torch.Tensor)])


def _recipe_key(study: Study, recipe: str, data_key: str, base: Path) -> str:
    """What the trainings of a recipe have in common."""
    body = study.recipes[recipe]
    plug_ins = [("method", p) for p in body.methods] + [("surgery", p) for p in body.surgery]
    plug_ins += [("average", {name: {}}) for name in body.averages]
    plug_ins += [("method", body.perturbation)] if body.perturbation else []
    modules = [plugin_module(kind, next(iter(plug_in))) for kind, plug_in in plug_ins]
    settings = study.training_of(recipe).model_dump(exclude={"checkpoint_seconds"})
    recipe_settings = {**body.model_dump(exclude={"training", "note"}), "files": _file_hashes(study, recipe)}
    source = source_hash([*modules, *CORE_OF_TRAINING, *_attack_modules(plug_ins), *task_roots(study.task, base=base)])
    return config_hash([recipe_settings, settings, data_key, source, _versions("torch", "numpy"), "threads=1"])


def _reads_unlabelled(methods: Iterable[Method]) -> bool:
    return any(isinstance(method, UsesUnlabelled) and method.uses_unlabelled for method in methods)


def _file_hashes(study: Study, recipe: str) -> dict[str, str]:
    """Contents by path of the files that the recipe's methods read: the same path may hold another teacher tomorrow."""
    files = [file for method in methods_of(study, recipe) if isinstance(method, ReadsFiles) for file in method.files]
    if missing := [file for file in files if not Path(file).is_file()]:
        raise InputError(f"there is no file {missing[0]!r}", where=f"methods of recipe {recipe!r}",
                         fix="make it first; the path counts from where the study is started")  # fmt: skip
    return {file: file_hash(Path(file)) for file in files}


def _probe_key(study: Study, probe: PlugIn, data_key: str) -> str:
    """What the cells of a probe have in common."""
    backends = {subject.split(":")[0] for subject in study.subjects}
    modules = [plugin_module("backend", name) for name in sorted(backends)]
    built = build("probe", probe)
    if isinstance(built, UsesPlugIns):
        modules += [plugin_module(kind, name) for kind, name in built.plug_ins]
    source = source_hash([plugin_module("probe", next(iter(probe))), *modules, *_attack_modules([("probe", probe)])])
    settings = [study.subjects, study.preprocessing, probe, data_key]
    return config_hash([settings, source, _versions("torch", "numpy", "onnxruntime", "onnx")])


def _attack_modules(plug_ins: Iterable[tuple[str, Any]]) -> list[str]:
    """Modules of the attacks that are named in the options of other plug-ins."""
    from holdfast.core.discover import names

    attacks = set(names("attack"))
    found: set[str] = set()
    pending: list[Any] = [plug_in for _, plug_in in plug_ins]
    while pending:
        node = pending.pop()
        if isinstance(node, Mapping):
            found |= attacks & set(node)
            pending.extend(node.values())
        elif isinstance(node, list | tuple):
            pending.extend(node)
        elif isinstance(node, str) and node in attacks:
            found.add(node)
    return [plugin_module("attack", name) for name in sorted(found)]


def _versions(*packages: str) -> dict[str, str]:
    return {package: version(package) for package in packages}
