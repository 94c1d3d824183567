"""A split under a pipeline, computed once: columns on disk, memory-mapped by every process that needs them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import keystr, tree_flatten, tree_flatten_with_path, tree_map
from torch.utils.data import default_collate

from holdfast.core.contracts import Batch, Pipeline, Task
from holdfast.core.errors import InputError
from holdfast.core.store import atomic_path

__all__ = ["Table", "has_split", "materialise", "open_table", "sensor_batch", "spread"]

CHUNK = 64


class Table:
    """A nest of tensors with a common first dimension: the samples of one split under one pipeline.

    Args:
        columns: nest of tensors, each (N, ...).
    """

    def __init__(self, columns: Batch) -> None:
        self.columns = columns
        leaves = [leaf for leaf in tree_flatten(columns)[0] if isinstance(leaf, Tensor)]
        if not leaves:
            raise InputError("samples hold no tensor", where="data", fix="return tensors, or nests of them")
        self._length = len(leaves[0])

    def __len__(self) -> int:
        return self._length

    def batch(self, indices: Tensor) -> Batch:
        """The samples at ``indices`` (int64, (B,)) as an ordinary, writable batch."""
        return tree_map(lambda column: column[indices], self.columns)

    def batches(self, size: int) -> Iterator[Batch]:
        """All samples in order, ``size`` at a time; the last batch may be smaller."""
        for start in range(0, len(self), size):
            yield self.batch(torch.arange(start, min(start + size, len(self))))


def materialise(task: Task, split: str, pipelines: Sequence[str], folders: Mapping[str, Path],
                advance: Callable[[int], None] = lambda _: None) -> None:  # fmt: skip
    """Load a split once and write it under each of ``pipelines`` to ``folders[name]``, chunk by chunk.

    A folder that is complete already is left alone, so an interrupted call costs only what was not finished.

    Raises:
        InputError: an unknown pipeline, an empty split, or values that are not finite or out of the declared range.
    """
    todo = [name for name in pipelines if not (folders[name] / "columns.json").exists()]
    for name in todo:
        _pipeline(task, name)
    if not todo:
        return
    data = task.data(split)
    if len(data) == 0:
        raise InputError("is empty", where=f"split {split!r} of task {task.name!r}")
    writers = {name: _Writer(folders[name], len(data)) for name in todo}
    for start in range(0, len(data), CHUNK):
        indices = range(start, min(start + CHUNK, len(data)))
        raw = sensor_batch(data, indices)
        for name, writer in writers.items():
            batch = _pipeline(task, name)(raw)
            where = f"split {split!r} under pipeline {name!r}, samples {indices[0]}..{indices[-1]}"
            task.space.check(batch, where=where)
            _check_finite(batch, where=where)
            writer.write(start, batch)
        advance(len(indices))
    for writer in writers.values():
        writer.close()


def open_table(folder: Path) -> Table:
    """The table that `materialise` wrote, memory-mapped: processes share its pages."""
    spec = json.loads((folder / "columns.json").read_text(encoding="utf-8"))
    columns = [torch.from_numpy(np.load(folder / f"{i}.npy", mmap_mode="c")) for i in range(spec["columns"])]
    return Table(_unflatten(spec["nest"], columns))


def sensor_batch(data: Any, indices: Sequence[int]) -> Batch:
    """Collated samples of a dataset; uses its ``__getitems__`` where it has one."""
    many = getattr(data, "__getitems__", None)
    samples = many(list(indices)) if many is not None else [data[i] for i in indices]
    return default_collate(samples)


def has_split(task: Task, split: str) -> bool:
    """Whether a task has a split; one that it lacks is a `KeyError` of its ``data``."""
    try:
        task.data(split)
    except KeyError:
        return False
    return True


def spread(length: int, limit: int) -> Tensor:
    """Positions of at most ``limit`` of ``length`` samples, int64: spread evenly, as neighbours resemble each other."""
    return torch.linspace(0, length - 1, min(limit, length)).long()


def _check_finite(batch: Batch, *, where: str) -> None:
    for path, leaf in tree_flatten_with_path(batch)[0]:
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and not bool(leaf.sum(dtype=torch.float64).isfinite()):
            raise InputError(f"leaf {keystr(path)} holds NaN or infinite values", where=where,
                             fix="clean the data, or mark missing labels by a mask instead")  # fmt: skip


def _pipeline(task: Task, name: str) -> Pipeline:
    if name not in task.pipelines:
        raise InputError(f"no pipeline {name!r}", where=f"task {task.name!r}", fix=f"one of {sorted(task.pipelines)}")
    return task.pipelines[name]


class _Writer:
    """Fills one array file per leaf; the spec, written last, says that all of them are complete."""

    def __init__(self, folder: Path, length: int) -> None:
        self.folder, self.length = folder, length
        self.arrays: list[np.ndarray] = []
        self.nest: Any = None

    def write(self, start: int, batch: Batch) -> None:
        leaves = tree_flatten(batch)[0]
        if not self.arrays:
            self.nest = _nest(batch, iter(range(len(leaves))))
            self.arrays = [np.empty((self.length, *leaf.shape[1:]), dtype=leaf.numpy().dtype) for leaf in leaves]
        for array, leaf in zip(self.arrays, leaves, strict=True):
            array[start : start + len(leaf)] = leaf.numpy()

    def close(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for i, array in enumerate(self.arrays):
            with atomic_path(self.folder / f"{i}.npy") as path, path.open("wb") as file:
                np.save(file, array)
        with atomic_path(self.folder / "columns.json") as path:
            path.write_text(json.dumps({"columns": len(self.arrays), "nest": self.nest}), encoding="utf-8")


def _nest(batch: Batch, counter: Iterator[int]) -> Any:
    """The structure of a batch as JSON: dicts stay, tuples and lists become tagged lists, leaves their number."""
    if isinstance(batch, Mapping):
        return {"dict": {key: _nest(value, counter) for key, value in batch.items()}}
    if isinstance(batch, list | tuple):
        return {"tuple": [_nest(value, counter) for value in batch]}
    if isinstance(batch, Tensor):
        return next(counter)
    raise InputError(
        f"a sample holds a {type(batch).__name__}", where="data", fix="only tensors and numbers can be stored"
    )


def _unflatten(nest: Any, columns: list[Tensor]) -> Batch:
    if isinstance(nest, int):
        return columns[nest]
    if "dict" in nest:
        return {key: _unflatten(value, columns) for key, value in nest["dict"].items()}
    return tuple(_unflatten(value, columns) for value in nest["tuple"])
