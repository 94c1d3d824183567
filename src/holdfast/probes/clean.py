"""Clean metrics: how good is the eager model on data it was made for?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from holdfast.core.contracts import Measurement
from holdfast.probes.bench import Bench

__all__ = ["Clean"]


@dataclass(frozen=True, kw_only=True)
class Clean:
    """The task's metrics of the fp32 eager model under the reference pipeline, split by split.

    Args:
        splits: splits to measure; those the task lacks are passed over. Default ``train``-side sanity: ``val``.
    """

    splits: tuple[str, ...] = ("val",)
    needs: ClassVar[frozenset[str]] = frozenset({"forward"})

    def run(self, bench: Bench) -> Iterable[Measurement]:
        """One row per split and metric."""
        pipeline = bench.preprocessing[0]
        for split in self.splits:
            if bench.table(split, pipeline) is None:
                continue
            batch, outputs = bench.batch(split, pipeline), bench.outputs(bench.eager, split, pipeline)
            for metric in bench.metrics("sample"):
                values, groups = bench.values(metric, (outputs,), batch)
                yield bench.measurement(
                    probe="clean", subject=bench.eager, preprocessing=pipeline, split=split, metric=metric.name,
                    unit=metric.unit, better=metric.better, values=values, groups=groups,
                )  # fmt: skip
