"""Sequence stability: does the output flicker from frame to frame, and was calm bought with delay?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from holdfast.core.contracts import Batch, Better, Measurement, Outputs
from holdfast.core.errors import InputError
from holdfast.probes.bench import Bench
from holdfast.tasks.sequences import delay_frames, flicker, flip_rate, jitter, responsiveness

__all__ = ["Stability"]

Quantity = tuple[str, str, Better]


@dataclass(frozen=True, kw_only=True)
class Stability:
    """What the outputs do over ordered frames, under every pipeline and by every subject, one value a sequence.

    For a task with `Task.traces`, for each curve but ``truth``, with the curve's name as condition: ``flicker`` and
    ``jitter`` of the curve, which must be seen but never ranked; where there is a truth ``flicker_error`` and
    ``jitter_error`` of curve less truth, ``responsiveness`` and ``delay`` in frames. For other tasks whose outputs are
    logits: ``flips``, the share of frames that change the decision. See `holdfast.tasks.sequences`.

    A smoothed output flickers less, follows less and comes later: read the three together.

    Args:
        splits: splits of ordered frames; those the task lacks are passed over.

    Raises:
        InputError: the task has neither traces nor logits.
    """

    splits: tuple[str, ...] = ("report_sequence",)
    needs: ClassVar[frozenset[str]] = frozenset({"forward"})

    def run(self, bench: Bench) -> Iterable[Measurement]:
        """One row per split, pipeline, subject, curve and quantity."""
        for split in self.splits:
            if bench.table(split, bench.preprocessing[0]) is None:
                continue
            for pipeline in bench.preprocessing:
                for subject in bench.subjects or (bench.eager,):
                    batch, outputs = bench.batch(split, pipeline), bench.outputs(subject, split, pipeline)
                    for (metric, unit, better), by_curve in _measured(bench, outputs, batch).items():
                        for curve, values in by_curve.items():
                            yield bench.measurement(
                                probe="stability", subject=subject, preprocessing=pipeline, split=split,
                                condition=curve, metric=metric, unit=unit, better=better, values=np.array(values),
                                groups=np.arange(len(values)),
                                flags=() if subject.executed.startswith(subject.precision)
                                else ("precision_not_executed",),
                            )  # fmt: skip


def _measured(bench: Bench, outputs: Outputs, batch: Batch) -> dict[Quantity, dict[str, list[float]]]:
    found: dict[Quantity, dict[str, list[float]]] = {}
    for part, of in _sequences(bench, outputs, batch):
        for curve, quantity, value in _of_one(bench, part, of):
            found.setdefault(quantity, {}).setdefault(curve, []).append(float(value))
    return found


def _sequences(bench: Bench, outputs: Outputs, batch: Batch) -> Iterator[tuple[Outputs, Batch]]:
    codes = bench.groups(batch) if bench.task.group is not None else np.zeros(len(bench.groups(batch)), np.int64)
    for code in np.unique(codes):
        members = torch.from_numpy(np.flatnonzero(codes == code))
        yield tuple(tree_map(lambda t, m=members: t[m], nest) for nest in (outputs, batch))


def _of_one(bench: Bench, outputs: Outputs, batch: Batch) -> Iterator[tuple[str, Quantity, Tensor]]:
    if bench.task.traces is None:
        if not isinstance(outputs, Tensor) or outputs.ndim != 2 or outputs.shape[1] < 2:
            raise InputError("the task has neither traces nor logits", where="stability", fix="give Task(traces=...)")
        yield "", ("flips", "1", "neither"), flip_rate(outputs.argmax(1))
        return
    curves: Mapping[str, Any] = bench.task.traces(outputs, batch)
    truth = curves.get("truth")
    for name, curve in curves.items():
        if name != "truth":
            yield name, ("flicker", "curve unit", "neither"), flicker(curve)
            yield name, ("jitter", "curve unit", "neither"), jitter(curve)
            if truth is not None:
                yield name, ("flicker_error", "curve unit", "lower"), flicker(curve - truth)
                yield name, ("jitter_error", "curve unit", "lower"), jitter(curve - truth)
                yield name, ("responsiveness", "1", "higher"), responsiveness(curve, truth)
                yield name, ("delay", "frames", "lower"), delay_frames(curve, truth)
