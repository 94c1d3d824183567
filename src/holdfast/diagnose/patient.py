"""The subject under diagnosis, opened: what runs, the eager twin where there is one, and what both can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from holdfast.core.contracts import Outputs, Subject, Task
from holdfast.core.discover import load_task, task_roots
from holdfast.core.errors import InputError, nearest
from holdfast.core.fingerprint import config_hash, source_hash
from holdfast.data.table import has_split, sensor_batch
from holdfast.deploy.foreign import open_foreign
from holdfast.deploy.identity import tensors_key
from holdfast.deploy.recording import read_recording
from holdfast.diagnose.order import Order, kind_of
from holdfast.diagnose.splits import Tables, limited
from holdfast.verify.order import Source, load_source
from holdfast.weights import files
from holdfast.weights.opened import sha256

__all__ = ["Patient", "open_patient"]


@dataclass(frozen=True, kw_only=True)
class Patient:
    """What is diagnosed.

    Args:
        task: with its data limited to what the order asks for.
        tables: its splits under pipelines.
        key: of the subject, its twin, the task's source and the data used.
        spec: the task as it is named from ``base``.
        base: a folder.
        pipelines: to measure under, the reference first.
        model: the eager model: the subject itself, or its twin; None where there is none.
        session: what runs instead of the model; None for weights.
        initial: the weights before training where they lie beside.
        about: what the file says of itself.
    """

    task: Task
    tables: Tables
    key: str
    spec: str
    base: Path
    pipelines: tuple[str, ...]
    model: nn.Module | None
    session: Subject | None = None
    initial: Mapping[str, Tensor] | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def capabilities(self) -> frozenset[str]:
        """What the subject itself can do; a recording goes forward on what was recorded."""
        return frozenset({"forward"}) if self.session is not None else self.twin_capabilities

    @property
    def twin_capabilities(self) -> frozenset[str]:
        """What the eager model can do, empty where there is none."""
        if self.model is None:
            return frozenset()
        eager = frozenset({"forward", "gradient", "weights", "intermediates"})
        return eager | ({"initial"} if self.initial else frozenset())

    def has(self, split: str) -> bool:
        """Whether the task has a split."""
        return has_split(self.task, split)

    @property
    def name(self) -> str:
        """The subject as rows name it."""
        return self.session.name if self.session else "eager:fp32"


def open_patient(order: Order) -> Patient:
    """Open what an order names; torch's random state stays as it is.

    Raises:
        InputError: a file that cannot be read or is refused, no task, a pipeline or split that the task lacks, or
            weights or a graph that are not the task's.
        BackendError: ONNX Runtime does not run the graph.
    """
    with torch.random.fork_rng(devices=[]):
        return _opened(order, kind_of(order.path))


def _opened(order: Order, kind: str) -> Patient:
    source = _source(order, kind)
    task = limited(_task(order, source), order.samples)
    pipelines = _pipelines(order, task)
    _check_split(order, task)
    model = source.model if source else None
    session = None if kind == "weights" else _session(order, kind, task, pipelines[0], model)
    spec, base = (source.spec, source.base) if source else (order.task, Path())
    contents = [sha256(files.locate(path)) for path in (order.path, order.twin) if path is not None]
    described = [order.task, dict(order.options), order.samples, task.fingerprint, _ends(task, order.split)]
    key = config_hash([contents, described, source_hash(task_roots(spec, base=base))])
    initial = order.path.with_name("init.safetensors") if kind == "weights" else None
    return Patient(
        task=task, tables=Tables(task=task, folder=order.out / "tables", key=key), key=key, spec=spec, base=base,
        pipelines=pipelines, model=model, session=session, about=source.about if source else {},
        initial=files.load(initial)[0] if initial and initial.exists() and initial != order.path else None,
    )  # fmt: skip


def _source(order: Order, kind: str) -> Source | None:
    """The eager model with its task: the subject itself, or its twin."""
    weights = order.path if kind == "weights" else order.twin
    return None if weights is None else load_source(weights, order.task, order.options)


def _task(order: Order, source: Source | None) -> Task:
    if source is not None:
        return source.task
    if not order.task:
        raise InputError("no file says which task this is", where=str(order.path), fix="give --task file.py:name")
    return load_task(order.task, order.options, base=Path())


def _pipelines(order: Order, task: Task) -> tuple[str, ...]:
    names = order.pipelines or ("train", *(name for name in task.pipelines if name != "train"))
    for name in names:
        if name not in task.pipelines:
            raise InputError(f"no pipeline {name!r}", where="--pipeline", fix=nearest(name, task.pipelines))
    return names


def _check_split(order: Order, task: Task) -> None:
    try:
        task.data(order.split)
    except KeyError:
        raise InputError(
            f"no split {order.split!r}", where=f"task {task.name!r}", fix="name one that it has with --split"
        ) from None


def _ends(task: Task, split: str) -> str:
    """The first and the last sample: enough to tell data sets apart without reading them whole."""
    data = task.data(split)
    leaves = tree_leaves(sensor_batch(data, sorted({0, len(data) - 1})))
    return tensors_key(leaf for leaf in leaves if isinstance(leaf, Tensor))


def _session(order: Order, kind: str, task: Task, pipeline: str, model: nn.Module | None) -> Subject:
    if kind == "recorded":
        recording = read_recording(order.path)
        about = recording.about
        return Subject(
            backend="recorded", precision=str(about["precision"]), executed=f"{about['executed']} (recorded)",
            run=recording.replay, notes=(f"recorded with {about['runtime']} on {about['device']}, {about['time']}",),
        )  # fmt: skip
    data = task.data(order.split)
    example = task.inputs(task.pipelines[pipeline](sensor_batch(data, range(min(2, len(data))))))
    return replace(open_foreign(order.path, example, like=_like(task, model, example)), model=model)


def _like(task: Task, model: nn.Module | None, example: tuple[Tensor, ...]) -> Outputs | None:
    """Outputs of the twin, else of an untrained model: their nest is what the task's metrics read."""
    with torch.no_grad():
        try:
            return (model or task.build_model()).eval()(*example)
        except Exception:  # the task's model need not fit a graph from elsewhere; its outputs then stay a tuple
            return None
