"""The two-factor table: is the input or the arithmetic to blame, and by how much, in task units?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from holdfast.core.contracts import Drift, Measurement, Metric, Subject
from holdfast.probes.bench import Bench

__all__ = ["Deployment"]


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """Every metric and drift under {pipelines} x {subjects}.

    Drift is the displacement from the reference cell: first pipeline, first subject. A precision that was
    requested but did not execute carries the flag ``precision_not_executed``.

    Args:
        splits: splits of single frames; those the task lacks are passed over.
        sequences: splits of ordered frames, measured by the metrics and drifts over sequences.
    """

    splits: tuple[str, ...] = ("select", "report")
    sequences: tuple[str, ...] = ("select_sequence", "report_sequence")
    needs: ClassVar[frozenset[str]] = frozenset({"forward"})

    def run(self, bench: Bench) -> Iterable[Measurement]:
        """One row per split, pipeline, subject and metric or drift."""
        for over, splits in (("sample", self.splits), ("sequence", self.sequences)):
            for split in splits:
                if bench.table(split, bench.preprocessing[0]) is None:
                    continue
                for pipeline in bench.preprocessing:
                    for subject in bench.subjects:
                        yield from self._cell(bench, over, split, pipeline, subject)

    def _cell(self, bench: Bench, over: str, split: str, pipeline: str, subject: Subject) -> Iterator[Measurement]:
        batch = bench.batch(split, pipeline)
        outputs = bench.outputs(subject, split, pipeline)
        reference = bench.outputs(bench.subjects[0], split, bench.preprocessing[0])
        flags = () if subject.executed.startswith(subject.precision) else ("precision_not_executed",)
        asked: list[tuple[Metric | Drift, tuple[object, ...]]] = [(m, (outputs,)) for m in bench.metrics(over)]
        asked += [(d, (reference, outputs)) for d in bench.task.drifts if d.over == over]
        for quantity, arguments in asked:
            values, groups = bench.values(quantity, arguments, batch)
            yield bench.measurement(
                probe="deployment", subject=subject, preprocessing=pipeline, split=split, metric=quantity.name,
                unit=quantity.unit, better=quantity.better if isinstance(quantity, Metric) else "neither",
                values=values, groups=groups, flags=flags,
            )  # fmt: skip
