"""What a probe sees: one set of weights, the subjects made of it, and the data under every pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from holdfast.core.contracts import Batch, Better, Drift, Measurement, Metric, Outputs, Picture, Subject, Task
from holdfast.core.errors import InputError
from holdfast.core.rows import Row
from holdfast.data.table import Table, spread
from holdfast.probes.pieces import batch_size, by_pieces

__all__ = ["Bench", "RunLabel"]

BATCH = 64


@dataclass(frozen=True, kw_only=True)
class RunLabel:
    """Which trained weights are on the bench; copied into every row."""

    study: str
    recipe: str
    init_seed: int
    order_seed: int
    weights: str


@dataclass
class Bench:
    """The data, the model and the subjects a probe may use; it caches outputs, so probes may ask twice.

    Args:
        label: which weights these are.
        task: the task.
        model: the eager model in eval mode; a probe leaves it bit for bit as it found it.
        open_table: ``(split, pipeline) -> Table``, or None where the task has no such split.
        open_subjects: opens the study's subjects; called once, when the first probe asks.
        preprocessing: pipelines to measure under; the first is the reference.
        initial: the weights before training where they were kept.
        redraw: ``seed -> state`` drawn anew by whatever initialised this model, where that is known.
        checkpoints: further states kept during training, by a label such as ``"epoch 1"``.
        stand_in: what is measured in the place of the eager model, such as a session without one.
        piece: samples that are run at once; halved whenever the memory does not suffice.
        scratch: an npz file in which a long probe may keep what it has found so far; None keeps nothing.
    """

    label: RunLabel
    task: Task
    model: nn.Module
    open_table: Callable[[str, str], Table | None]
    open_subjects: Callable[[], Sequence[Subject]]
    preprocessing: Sequence[str]
    initial: Mapping[str, Tensor] | None = None
    redraw: Callable[[int], Mapping[str, Tensor]] | None = None
    checkpoints: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    stand_in: Subject | None = None
    piece: int = BATCH
    scratch: Path | None = None
    _subjects: tuple[Subject, ...] | None = None
    _tables: dict[tuple[str, str], Table | None] = field(default_factory=dict)
    _outputs: dict[tuple[str, str, str], Outputs] = field(default_factory=dict)

    # --- what is there ---

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """Every subject of the study; the first is the reference."""
        if self._subjects is None:
            self._subjects = tuple(self.open_subjects())
        return self._subjects

    @property
    def eager(self) -> Subject:
        """The model itself, in fp32: the subject on which gradients exist; or what stands in for it."""
        return self.stand_in or Subject(
            backend="eager", precision="fp32", executed="fp32", run=self.model, model=self.model
        )

    def table(self, split: str, pipeline: str) -> Table | None:
        """A split under a pipeline, or None where the task has no such split."""
        key = (split, pipeline)
        if key not in self._tables:
            self._tables[key] = self.open_table(split, pipeline)
        return self._tables[key]

    def batch(self, split: str, pipeline: str, *, limit: int | None = None) -> Batch:
        """All samples of a split (or the first ``limit``) as one batch, which is not to be written to.

        Raises:
            InputError: the task has no such split.
        """
        table = self.table(split, pipeline)
        if table is None:
            raise InputError(f"no split {split!r}", where=f"task {self.task.name!r}", fix="name a split the task has")
        return tree_map(lambda column: column[:limit], table.columns)

    def spread(self, split: str, pipeline: str, *, limit: int) -> Batch:
        """At most ``limit`` samples, evenly spread over a split: the first frames of a recording resemble one another.

        Raises:
            InputError: the task has no such split.
        """
        batch = self.batch(split, pipeline)
        chosen = spread(batch_size(batch), limit)
        return tree_map(lambda column: column[chosen], batch)

    def outputs(self, subject: Subject, split: str, pipeline: str) -> Outputs:
        """Outputs of a subject on a whole split, computed once."""
        key = (subject.name, split, pipeline)
        if key not in self._outputs:
            self._outputs[key] = self.run(subject, self.batch(split, pipeline))
        return self._outputs[key]

    def run(self, subject: Subject, batch: Batch) -> Outputs:
        """Outputs of a subject on a batch of any size, in pieces, without gradients.

        Where the memory does not suffice, `piece` is halved and the work goes on.
        """

        def smaller(size: int) -> None:
            self.piece = size

        def forward(_: int, part: Batch) -> Outputs:
            return self.task.forward(subject.run, part)

        with torch.no_grad():
            parts = by_pieces(batch, self.piece, forward, halved=smaller)
        return tree_map(lambda *pieces: torch.cat(pieces), *parts)

    # --- making measurements ---

    def metrics(self, over: str) -> tuple[Metric, ...]:
        """The task's metrics per sample or per sequence."""
        return tuple(metric for metric in self.task.metrics if metric.over == over)

    def values(self, metric: Metric | Drift, arguments: tuple[Outputs, ...], batch: Batch) -> tuple[Tensor, np.ndarray]:
        """Values (n,) and integer group codes (n,) of a metric or drift, one per sample or per sequence."""
        codes, compute = self.groups(batch), cast(Callable[..., Tensor], metric.compute)
        if metric.over == "sample":
            return compute(*arguments, batch).detach().double(), codes
        pieces = []
        for members in _runs(codes):
            part = [tree_map(lambda t, m=members: t[m], nest) for nest in (*arguments, batch)]
            pieces.append(compute(*part).detach().double().reshape(()))
        return torch.stack(pieces), np.arange(len(pieces))

    def groups(self, batch: Batch) -> np.ndarray:
        """Integer group codes (n,): samples of one recording share a code."""
        if self.task.group is None:
            return np.arange(batch_size(batch))
        seen: dict[Any, int] = {}
        return np.array([seen.setdefault(key, len(seen)) for key in self.task.group(batch)], dtype=np.int64)

    def measurement(self, *, probe: str, subject: Subject, preprocessing: str, split: str, metric: str, unit: str,
                    better: Better, values: Tensor | np.ndarray, groups: np.ndarray, condition: str = "",
                    flags: Sequence[str] = (), series: Mapping[str, np.ndarray] | None = None,
                    pictures: Sequence[Picture] = ()) -> Measurement:  # fmt: skip
        """A measurement of this bench's weights; NaN samples are left out and flagged as ``undefined_samples``."""
        array = np.asarray(values, dtype=np.float64)
        defined = ~np.isnan(array)
        doubts = tuple(flags) + (() if defined.all() else ("undefined_samples",))
        row = Row(
            study=self.label.study,
            recipe=self.label.recipe,
            init_seed=self.label.init_seed,
            order_seed=self.label.order_seed,
            weights=self.label.weights,
            preprocessing=preprocessing,
            backend=subject.backend,
            precision=subject.precision,
            executed=subject.executed,
            probe=probe,
            condition=condition,
            split=split,
            metric=metric,
            unit=unit,
            better=better,
            value=float(array[defined].mean()) if defined.any() else float("nan"),
            n=int(defined.sum()),
            groups=len(np.unique(groups[defined])),
            flags=doubts,
        )
        return Measurement(row=row, values=array, groups=groups, series=series or {}, pictures=tuple(pictures))


def _runs(codes: np.ndarray) -> Iterator[slice | Tensor]:
    """Where each group is: a slice where its samples stand together, as in a sequence, so that nothing is copied."""
    for code in np.unique(codes):
        members = np.flatnonzero(codes == code)
        first, last = int(members[0]), int(members[-1])
        yield slice(first, last + 1) if last - first + 1 == len(members) else torch.from_numpy(members)
