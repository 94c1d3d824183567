"""What the report shows of a training beside numbers: frames with lines drawn over them, curves over a sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from holdfast.core.contracts import Outputs, Picture
from holdfast.data.table import sensor_batch
from holdfast.probes.bench import Bench
from holdfast.probes.pieces import batch_size
from holdfast.study.jobs import Context, bench_of
from holdfast.study.plan import TrainCell

__all__ = ["Showcase", "run_showcase"]

FRAMES = 3


@dataclass(frozen=True, kw_only=True)
class Showcase:
    """Pictures and curves of one training under the study's first two pipelines, the eager model in fp32.

    Args:
        recipe, weights: which weights.
        frames: indices of the frames in the ``report`` split.
        pictures: one per frame; roles ``truth``, ``reference`` (first pipeline) and ``deployed`` (second).
        series: curves over the first sequence: ``truth``, ``reference: <name>``, ``deployed: <name>``.
    """

    recipe: str
    weights: str
    frames: tuple[int, ...]
    pictures: tuple[Picture, ...]
    series: Mapping[str, np.ndarray]


def run_showcase(context: Context, cell: TrainCell, weights: str, frames: Sequence[int]) -> Showcase:
    """Draw frames of the ``report`` split and the traces of its first sequence.

    Args:
        context: the study.
        cell: the training to show.
        weights: which of its weights.
        frames: indices of the frames to draw; empty: those on which the two pipelines differ most.
    """
    bench = bench_of(context, cell, weights)
    pipelines = dict(zip(("reference", "deployed"), (context.study.preprocessing * 2)[:2], strict=True))
    outputs = {role: bench.outputs(bench.eager, "report", name) for role, name in pipelines.items()}
    chosen = tuple(frames) or _worst(bench, outputs["reference"], outputs["deployed"])
    return Showcase(
        recipe=cell.recipe,
        weights=weights,
        frames=chosen,
        pictures=tuple(_pictures(bench, outputs, chosen)),
        series=_traces(bench, pipelines),
    )


def _pictures(bench: Bench, outputs: Mapping[str, Outputs], frames: Sequence[int]) -> list[Picture]:
    if bench.task.picture is None:
        return []
    data = bench.task.data("report")
    return [
        bench.task.picture(sensor_batch(data, [i]), {role: _at(nest, [i]) for role, nest in outputs.items()}, 0)
        for i in frames
    ]


def _worst(bench: Bench, reference: Outputs, deployed: Outputs) -> tuple[int, ...]:
    """Frames on which the two pipelines differ most, one per group so that they are not neighbours."""
    drifts = [drift for drift in bench.task.drifts if drift.over == "sample"]
    batch = bench.batch("report", bench.preprocessing[0])
    if not drifts:
        return tuple(range(min(FRAMES, batch_size(batch))))
    values, groups = bench.values(drifts[0], (reference, deployed), batch)
    chosen: dict[int, int] = {}
    for index in torch.argsort(torch.nan_to_num(values, nan=-1.0), descending=True).tolist():
        chosen.setdefault(int(groups[index]), index)
        if len(chosen) == FRAMES:
            break
    return tuple(chosen.values())


def _traces(bench: Bench, pipelines: Mapping[str, str]) -> dict[str, np.ndarray]:
    traces, split = bench.task.traces, "report_sequence"
    if traces is None or bench.table(split, pipelines["reference"]) is None:
        return {}
    found: dict[str, np.ndarray] = {}
    for role, pipeline in pipelines.items():
        batch, outputs = bench.batch(split, pipeline), bench.outputs(bench.eager, split, pipeline)
        first = np.flatnonzero(bench.groups(batch) == 0).tolist()
        for name, curve in traces(_at(outputs, first), _at(batch, first)).items():
            found["truth" if name == "truth" else f"{role}: {name}"] = curve.detach().numpy()
    return found


def _at(nest: Any, indices: Sequence[int]) -> Any:
    def taken(tensor: Tensor) -> Tensor:
        return tensor[torch.as_tensor(indices)]

    return tree_map(taken, nest)
