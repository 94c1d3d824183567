"""How a damaged image reaches the network: at its input, or at the sensor and on through the pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from holdfast.core.contracts import Batch, Corruption, ReplacesStep
from holdfast.core.errors import InputError
from holdfast.core.space import Leaf, get_leaf, with_leaf
from holdfast.data.corruptions.sealed import corrupted
from holdfast.data.preprocess import Pipeline
from holdfast.data.table import sensor_batch
from holdfast.probes.bench import Bench

__all__ = ["At", "Samples", "chosen_leaf", "from_grey", "to_grey"]

At: TypeAlias = Literal["input", "sensor"]


def to_grey(x: Tensor, leaf: Leaf) -> Tensor:
    """Stored values as grey levels 0..255 of the leaf's range."""
    low, high = leaf.stored(leaf.low, x), leaf.stored(leaf.high, x)
    return (x - low) / (high - low) * 255


def from_grey(grey: Tensor, leaf: Leaf) -> Tensor:
    """The inverse of `to_grey`."""
    low, high = leaf.stored(leaf.low, grey), leaf.stored(leaf.high, grey)
    return low + grey / 255 * (high - low)


def chosen_leaf(bench: Bench, path: str | None, *, who: str) -> tuple[str, Leaf]:
    """The image that is damaged: the named leaf, or the only one.

    Raises:
        InputError: no such leaf, or several and none is named.
    """
    leaves = dict(bench.task.space.leaves)
    if path is None and len(leaves) == 1:
        path = next(iter(leaves))
    if path not in leaves:
        raise InputError(f"which of the leaves {sorted(leaves)}?", where=who, fix="name it in `leaf`")
    return path, leaves[path]


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Samples of a split, clean, and what damages them.

    Args:
        bench: the bench.
        split: which split.
        indices: positions in it; each keys the random draws of its sample.
        path: leaf of the image.
        leaf: its declaration.
        at: ``input`` damages what the network is given, ``sensor`` what the pipeline is given.
        seed: of all draws.
    """

    bench: Bench
    split: str
    indices: Sequence[int]
    path: str
    leaf: Leaf
    at: At = "input"
    seed: int = 0
    _raw: list[Batch] = field(default_factory=list)

    @property
    def preprocessing(self) -> str:
        """Name of the pipeline: the reference one."""
        return self.bench.preprocessing[0]

    def clean(self) -> Batch:
        """The network's inputs without damage.

        Raises:
            InputError: the task has no such split.
        """
        table = self.bench.table(self.split, self.preprocessing)
        if table is None:
            raise InputError(f"no split {self.split!r}", where="probe", fix="name a split the task has")
        return table.batch(torch.tensor(self.indices))

    def damaged(self, corruption: Corruption, severity: int) -> Batch:
        """The network's inputs, damaged; all else in the batch is as it was."""
        if self.at == "input":
            batch = self.clean()
            x = get_leaf(batch, self.path)
            grey = to_grey(x, self.leaf).clamp(0, 255)
            found = corrupted(grey, corruption, severity, keys=self.indices, seed=self.seed)
            return with_leaf(batch, self.path, from_grey(found, self.leaf).to(x.dtype))
        pipeline = self.bench.task.pipelines[self.preprocessing]
        if isinstance(corruption, ReplacesStep) and isinstance(pipeline, Pipeline):
            size = pipeline.size_after(corruption.replaces, get_leaf(self.raw(), pipeline.leaf))
            return pipeline.swap(corruption.replaces, corruption.step(severity, size))(self.raw())
        path = pipeline.leaf if isinstance(pipeline, Pipeline) else self.path
        image = get_leaf(self.raw(), path)
        found = corrupted(image, corruption, severity, keys=self.indices, seed=self.seed)
        return pipeline(with_leaf(self.raw(), path, found))

    def raw(self) -> Batch:
        """What the sensor gave, collated once."""
        if not self._raw:
            self._raw.append(sensor_batch(self.bench.task.data(self.split), self.indices))
        return self._raw[0]

    def has_step(self, name: str) -> bool:
        """Whether sensor frames pass a step of that name."""
        pipeline = self.bench.task.pipelines[self.preprocessing]
        return self.at == "sensor" and isinstance(pipeline, Pipeline) and pipeline.step(name) is not None
