"""Fewer samples of a task's splits, spread evenly; of ordered frames the first ones, so that they stay neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.core.contracts import Task
from holdfast.core.fingerprint import config_hash
from holdfast.data.table import Table, materialise, open_table

__all__ = ["Tables", "limited"]


@dataclass(frozen=True)
class _Chosen:
    """Some samples of a dataset."""

    data: Any
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.data[self.indices[index]]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        chosen = [self.indices[i] for i in indices]
        many = getattr(self.data, "__getitems__", None)
        return list(many(chosen)) if many is not None else [self.data[i] for i in chosen]


def limited(task: Task, samples: int | None) -> Task:
    """The task with at most ``samples`` of each split."""
    if samples is None:
        return task

    def data(split: str) -> Any:
        whole = task.data(split)
        if len(whole) <= samples:
            return whole
        if split.endswith("sequence"):
            return _Chosen(whole, range(samples))
        return _Chosen(whole, np.linspace(0, len(whole) - 1, samples).round().astype(int).tolist())

    return replace(task, data=data)


@dataclass(frozen=True, kw_only=True)
class Tables:
    """Splits under pipelines, computed when first asked for and kept in a folder.

    Args:
        task: with its data limited.
        folder: where tables lie.
        key: of everything that the data depend on, the limit included.
    """

    task: Task
    folder: Path
    key: str

    def open(self, split: str, pipeline: str) -> Table | None:
        """A split under a pipeline, or None where the task has no such split."""
        try:
            self.task.data(split)
        except KeyError:
            return None
        folder = self.folder / config_hash([self.key, split, pipeline])
        materialise(self.task, split, [pipeline], {pipeline: folder})
        return open_table(folder)
