"""Datapath: in which layer do two runs of the model part, and do the same channels decide in both?"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from holdfast.core.contracts import Batch, Measurement
from holdfast.core.errors import InputError
from holdfast.deploy.emulate import PRECISIONS, Rounding, round_to, rounded_copy
from holdfast.probes.bench import Bench
from holdfast.surgery.datapath import Trace, compare, trace
from holdfast.surgery.tapped import evaluating

__all__ = ["Datapath"]


@dataclass(frozen=True, kw_only=True)
class Datapath:
    """Compares the run under the reference pipeline, layer by layer, with those under other pipelines and precisions.

    A row's condition is the layer, with the precision behind it where that differs. Metrics: ``input_db`` and
    ``output_db``, agreement of the layer's inputs and outputs; ``added_db``, their difference; ``own_db``, agreement
    of its output with what the reference layer makes of the same input; ``gain``, relative difference of outputs over
    inputs; ``overlap``, Jaccard index of the channels that carry 95 % of ``mean |dL/dg g|``; ``divergence``, 1 for the
    layer where the runs part.

    At another precision that is the layer that itself computes least alike. Under another pipeline all layers compute
    alike and carry the difference on; then it is the layer that enlarges it most, by at least 3 dB.

    Args:
        split: which split.
        samples: how many samples, spread evenly over the split.
        precisions: emulated precisions to compare with: ``fp16``, ``bf16``, ``tf32``. Default ``fp16``.
        mass: share of the importance that critical channels carry.

    Raises:
        InputError: an unknown precision, or a split the task lacks.
    """

    split: str = "report"
    samples: int = 128
    precisions: tuple[str, ...] = ("fp16",)
    mass: float = 0.95
    needs: ClassVar[frozenset[str]] = frozenset({"forward", "gradient", "intermediates"})

    def __post_init__(self) -> None:
        if odd := [name for name in self.precisions if name not in PRECISIONS]:
            raise InputError(f"cannot emulate {odd[0]!r}", where="datapath", fix=f"one of {', '.join(PRECISIONS)}")

    def run(self, bench: Bench) -> Iterable[Measurement]:
        """Rows for each other run and layer."""
        first, *others = bench.preprocessing
        batch = bench.spread(self.split, first, limit=self.samples)
        reference = _trace(bench, bench.model, batch)
        for pipeline in others:
            other = _trace(bench, bench.model, bench.spread(self.split, pipeline, limit=self.samples))
            yield from self._rows(bench, pipeline, "", reference, other)
        for precision in self.precisions:
            yield from self._rows(bench, first, f" {precision}", reference, _rounded(bench, batch, precision))

    def _rows(self, bench: Bench, pipeline: str, mark: str, reference: Trace, other: Trace) -> Iterator[Measurement]:
        found = compare(bench.model, reference, other, mass=self.mass)
        diverging = found.divergence_layer()
        for layer in found.layers:
            quantities = {
                "input_db": (layer.input_db, "dB"), "output_db": (layer.output_db, "dB"),
                "added_db": (layer.added_db, "dB"), "own_db": (layer.own_db, "dB"),
                "gain": (layer.gain, "1"), "overlap": (layer.overlap, "1"),
                "divergence": (float(layer.layer == diverging), "1"),
            }  # fmt: skip
            for metric, (value, unit) in quantities.items():
                yield bench.measurement(
                    probe="datapath", subject=bench.eager, preprocessing=pipeline, split=self.split,
                    condition=f"{layer.layer}{mark}", metric=metric, unit=unit, better="neither",
                    values=np.array([value]), groups=np.zeros(1, dtype=np.int64),
                )  # fmt: skip


def _trace(bench: Bench, model: nn.Module, batch: Batch) -> Trace:
    with evaluating(model), torch.enable_grad():
        return trace(model, lambda: bench.task.loss(bench.task.forward(model, batch), batch))


def _rounded(bench: Bench, batch: Batch, precision: str) -> Trace:
    """The run at an emulated precision; its channels' importances are those of the rounded weights in fp32."""
    model = rounded_copy(bench.model, precision).eval()
    stored = precision != "tf32"  # tf32 rounds operands only
    inputs = tree_map(lambda t: round_to(t, precision) if stored and _single(t) else t, batch)
    with torch.no_grad(), Rounding(precision):
        seen = trace(model, lambda: bench.task.forward(model, inputs))
    importance = _trace(bench, model, inputs).importance
    return dataclasses.replace(seen, importance=importance)


def _single(value: object) -> bool:
    return isinstance(value, Tensor) and value.dtype is torch.float32
