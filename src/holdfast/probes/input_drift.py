"""Input drift: which named differences stand between the network inputs of two pipelines?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from holdfast.core.contracts import Measurement
from holdfast.core.errors import InputError
from holdfast.data.table import spread
from holdfast.explain_drift.explain import Explanation, explain
from holdfast.probes.bench import Bench

__all__ = ["InputDrift"]

SMALLEST_PX = 8


@dataclass(frozen=True, kw_only=True)
class InputDrift:
    """What `holdfast explain-drift` says of the same samples under the reference pipeline and each other one.

    A row's value is the share of the difference that a cause explains, averaged over the samples looked at, on which it
    was not found counting as zero; a last row per pipeline is the share that remains. No model runs.

    Args:
        split: which split.
        samples: how many samples are looked at, spread over the split. Default 6.
    """

    split: str = "report"
    samples: int = 6
    needs: ClassVar[frozenset[str]] = frozenset()

    def run(self, bench: Bench) -> Iterable[Measurement]:
        """One row per pipeline and cause; the condition is its class, with its name."""
        reference, *others = bench.preprocessing
        for path, _ in bench.task.space:
            for pipeline in others:
                pair = [self._images(bench, name, path) for name in (reference, pipeline)]
                if pair[0] is not None and pair[1] is not None:
                    yield from self._pipeline(bench, pipeline, pair[0], pair[1])

    def _images(self, bench: Bench, pipeline: str, path: str) -> Tensor | None:
        """A few images as grey levels; None where the leaf holds no pictures."""
        table = bench.table(self.split, pipeline)
        if table is None:
            return None
        chosen = spread(len(table), self.samples)
        image = bench.task.space.values(table.batch(chosen))[path]
        picture = image.ndim == 4 and image.shape[1] in (1, 3) and min(image.shape[2:]) >= SMALLEST_PX
        return image if picture else None

    def _pipeline(self, bench: Bench, pipeline: str, before: Tensor, after: Tensor) -> Iterator[Measurement]:
        told = [found for a, b in zip(before, after, strict=True) if (found := _explained(a, b)) is not None]
        if not told:
            return
        shares: dict[str, list[float]] = {}
        for i, explanation in enumerate(told):
            for finding in explanation.findings:
                name = f"cause={finding.family} {finding.name}"
                shares.setdefault(name, [0.0] * len(told))[i] = 1.0 if finding.share is None else finding.share
        shares["remaining"] = [explanation.remaining for explanation in told]
        for condition, values in shares.items():
            yield bench.measurement(
                probe="input_drift", subject=bench.eager, preprocessing=pipeline, split=self.split, condition=condition,
                metric="share_of_difference", unit="1", better="neither", values=np.array(values),
                groups=np.arange(len(values)),
            )  # fmt: skip


def _explained(before: Tensor, after: Tensor) -> Explanation | None:
    try:
        return explain(before.numpy(), after.numpy())
    except InputError:  # another size: there is nothing to compare pixel by pixel
        return None
