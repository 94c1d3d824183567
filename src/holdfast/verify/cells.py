"""Outputs of every subject under every pipeline, computed once and found again after an interruption."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from holdfast.core.contracts import Artefact, Backend, Batch, Outputs, PrecisionPlan, Subject
from holdfast.core.discover import task_roots
from holdfast.core.errors import InputError
from holdfast.core.fingerprint import config_hash, source_hash
from holdfast.core.progress import Progress
from holdfast.core.store import atomic_path
from holdfast.data.table import Table, materialise, open_table, sensor_batch, spread
from holdfast.deploy.backends.graph import Graph, stored_precision
from holdfast.deploy.backends.recorded import Recorded
from holdfast.deploy.graph import load_graph
from holdfast.deploy.identity import tensors_key, weights_key
from holdfast.deploy.nest import flatten, unflatten
from holdfast.deploy.recording import read_recording
from holdfast.deploy.subjects import find_backend, subject_of
from holdfast.verify.order import Order

__all__ = ["Cells", "Opened", "short_names"]

BATCH = 32
CALIBRATION_SAMPLES = 128


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A subject with what it was opened from.

    ``label`` tells it from the others: ``backend:precision``, with the name of the file where it comes from one.
    """

    label: str
    subject: Subject
    backend: Backend
    artefact: Artefact


class Cells:
    """Data and outputs of an order; a context manager that closes the subjects.

    Args:
        order: what is asked for.
        progress: shows what is going on.
    """

    def __init__(self, order: Order, progress: Progress) -> None:
        self.order, self.progress = order, progress
        self.task, self.model = order.source.task, order.source.model
        self._tables: dict[tuple[str, str], Table] = {}
        self._closing = ExitStack()
        self._roots = source_hash(task_roots(order.source.spec, base=order.source.base))

    def __enter__(self) -> Cells:
        self.opened = tuple(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    # --- data ---

    def splits(self) -> list[str]:
        """The asked splits that the task has."""
        asked = dict.fromkeys((self.order.frames, self.order.sequences))
        return [split for split in asked if split and self._data(split) is not None]

    def has(self, split: str) -> bool:
        """Whether the task has a split."""
        return self._data(split) is not None

    def batch(self, split: str, pipeline: str) -> Batch:
        """All samples of a split under a pipeline, up to the limit."""
        table = self.table(split, pipeline)
        return table.batch(torch.arange(len(table)))

    def table(self, split: str, pipeline: str) -> Table:
        """A split under a pipeline.

        Raises:
            InputError: the task has no such split.
        """
        if (split, pipeline) not in self._tables:
            folders = self._materialised(split)
            for name, folder in folders.items():
                self._tables[split, name] = open_table(folder)
        return self._tables[split, pipeline]

    def _materialised(self, split: str) -> dict[str, Path]:
        data = self._data(split)
        if data is None:
            raise InputError(f"no split {split!r}", where=f"task {self.task.name!r}", fix="name a split it has")
        data = _First(data, self._limit() or len(data))
        ends = sensor_batch(data, sorted({0, len(data) - 1}))
        described = [self.order.source.spec, self.order.source.options, self.task.fingerprint, self._roots, split]
        shared = [*described, len(data), tensors_key(flatten(ends)[0])]
        names = list(dict.fromkeys(self.order.preprocessing))
        folders = {name: self.order.out / "tables" / config_hash([*shared, name]) for name in names}
        work = self.progress.add(f"data {split}", total=len(data))
        limited = replace(self.task, data=lambda _: data)
        materialise(limited, split, names, folders, lambda n: self.progress.advance(work, n))
        self.progress.finish(work)
        return folders

    def _limit(self) -> int | None:
        """The limit that was asked for, or the lowest of the kits: of other samples no outputs were brought back."""
        kits = [limit for path in self.order.recorded if (limit := read_recording(path).limit)]
        return self.order.limit or min(kits, default=None)

    def _data(self, split: str) -> Any:
        try:
            return self.task.data(split)
        except KeyError:
            return None

    # --- subjects ---

    def few(self, count: int) -> tuple[Tensor, ...]:
        """The first samples that come to hand, as a model is called with them; nothing is written."""
        return self.task.inputs(self.task.pipelines[self.order.preprocessing[0]](self.sensor(count)))

    def sensor(self, count: int) -> Batch:
        """The same samples as the sensor gives them."""
        data = self._data(self.order.frames) or self.task.data("train")
        return sensor_batch(data, range(min(count, len(data))))

    def calibration(self) -> list[tuple[Tensor, ...]]:
        """Batches for int8 ranges: the calibration split, else training data, spread over the whole."""
        data = self._data("calibration") or self.task.data("train")
        pipeline = self.task.pipelines[self.order.preprocessing[0]]
        chosen = spread(len(data), CALIBRATION_SAMPLES).tolist()
        parts = [chosen[i : i + BATCH] for i in range(0, len(chosen), BATCH)]
        return [self.task.inputs(pipeline(sensor_batch(data, part))) for part in parts]

    def prepare(self, backend: Backend, precision: str, folder: Path) -> Artefact:
        """An artefact of the model; also for building it once more elsewhere."""
        calibration = self.calibration() if precision == "int8" else None
        return backend.prepare(self.model, self.few(2), PrecisionPlan(default=precision), calibration, folder)

    def _open(self) -> Iterator[Opened]:
        for backend, precision, file in self._asked():
            work = self.progress.add(f"prepare {type(backend).__name__} {precision}", total=1)
            artefact = self.prepare(backend, precision, self.order.out / "artefacts")
            subject = subject_of(backend, artefact, self.model)
            self._closing.callback(subject.close)
            self.progress.advance(work)
            label = f"{subject.name} of {file}" if file else subject.name
            yield Opened(label=label, subject=subject, backend=backend, artefact=artefact)

    def _asked(self) -> Iterator[tuple[Backend, str, str]]:
        """Back-end, precision and file; files of the same name are told apart by their folders."""
        for spec in dict.fromkeys(self.order.subjects):
            name, _, precision = spec.partition(":")
            yield find_backend(name), precision or "fp32", ""
        recorded, graphs = ([*dict.fromkeys(path.resolve() for path in paths)]
                            for paths in (self.order.recorded, self.order.graphs))  # fmt: skip
        names = dict(zip([*recorded, *graphs], short_names([*recorded, *graphs]), strict=True))
        for path in recorded:
            yield Recorded(path=str(path)), str(read_recording(path).about["precision"]), names[path]
        for path in graphs:
            yield Graph(path=str(path)), stored_precision(load_graph(path)), names[path]

    # --- outputs ---

    def outputs(self, opened: Opened, split: str, pipeline: str) -> Outputs:
        """Outputs on a whole split; read from disk where an earlier run has left them."""
        batch = self.batch(split, pipeline)
        inputs = self.task.inputs(batch)
        key = config_hash([opened.artefact.key, weights_key(self.model), tensors_key(inputs)])
        path = self.order.out / "outputs" / f"{key}.npz"
        if path.is_file():
            return _read(path)
        label = f"{opened.label} under {pipeline} on {split}"
        outputs = self._run(opened.subject, inputs, label)
        _write(path, outputs)
        return outputs

    def _run(self, subject: Subject, inputs: tuple[Tensor, ...], label: str) -> Outputs:
        work = self.progress.add(label, total=len(inputs[0]))
        parts = []
        with torch.no_grad():
            for start in range(0, len(inputs[0]), BATCH):
                parts.append(subject.run(*(x[start : start + BATCH] for x in inputs)))
                self.progress.advance(work, min(BATCH, len(inputs[0]) - start))
        return tree_map(lambda *pieces: torch.cat(pieces), *parts)


class _First:
    """The first samples of a dataset; the others are not even loaded."""

    def __init__(self, data: Any, count: int) -> None:
        self._data, self._count = data, min(count, len(data))

    def __len__(self) -> int:
        return self._count

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        many = getattr(self._data, "__getitems__", None)
        return list(many(list(indices))) if many is not None else [self._data[i] for i in indices]


def short_names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of paths that tell them apart: names of files, with folders before them where needed."""
    names = []
    for path in paths:
        others = [other for other in paths if other != path]
        ends = ("/".join(path.parts[-count:]) for count in range(1, len(path.parts) + 1))
        names.append(next(end for end in ends if not any(f"/{other}".endswith(f"/{end}") for other in others)))
    return names


def _write(path: Path, outputs: Outputs) -> None:
    tensors, layout = flatten(outputs)
    arrays: dict[str, Any] = {f"output_{i}": x.detach().numpy() for i, x in enumerate(tensors)}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, layout=np.array(json.dumps(layout)), **arrays)


def _read(path: Path) -> Outputs:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        tensors = [torch.from_numpy(archive[f"output_{i}"]) for i in range(len(archive.files) - 1)]
        return unflatten(tensors, json.loads(str(archive["layout"])))
