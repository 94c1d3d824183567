"""Flip rate: how often does the answer change while an image changes by imperceptible steps (ImageNet-P style)?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from holdfast.core.contracts import Batch, Drift, Measurement, Outputs, Subject
from holdfast.core.errors import InputError, NoEffectError, nearest
from holdfast.core.space import get_leaf, with_leaf
from holdfast.data.corruptions.draws import Draws
from holdfast.data.perturbations import PERTURBATIONS, frames
from holdfast.data.table import spread
from holdfast.probes.bench import Bench
from holdfast.probes.damage import chosen_leaf, from_grey, to_grey

__all__ = ["FlipRate"]


@dataclass(frozen=True, kw_only=True)
class FlipRate:
    """Each image becomes a sequence of frames under a perturbation; outputs of successive frames are compared.

    Equation, for each sample: ``1 / (T - 1) sum_t D(f(x_t), f(x_{t-1}))`` with each of the task's drifts D; for noise,
    whose frames have no order, ``D(f(x_t), f(x_0))`` with the clean image ``x_0``. With the drift ``flipped`` of a
    classifier that is the flip probability of ImageNet-P. The row ``mean`` is the mean over all eight perturbations,
    where all were run; it is not divided by AlexNet's rates.

    Args:
        perturbations: names in `holdfast.data.perturbations.PERTURBATIONS`. Default: all.
        split: which split.
        samples: how many samples, spread evenly over the split.
        subjects: further subjects (``backend:precision``) beside the eager model.
        leaf: path of the image; None when the task declares one leaf.
        seed: of noise.

    Raises:
        InputError: an unknown perturbation, split or leaf.
        NoEffectError: the task has no drift per sample.

    Source: Hendrycks and Dietterich, ICLR 2019, section 4.2; the parameters are those of CIFAR-10-P.
    """

    perturbations: tuple[str, ...] = tuple(PERTURBATIONS)
    split: str = "report"
    samples: int = 32
    subjects: tuple[str, ...] = ()
    leaf: str | None = None
    seed: int = 0
    needs: ClassVar[frozenset[str]] = frozenset({"forward"})

    def __post_init__(self) -> None:
        if odd := [name for name in self.perturbations if name not in PERTURBATIONS]:
            raise InputError(f"no perturbation {odd[0]!r}", where="probe flip_rate", fix=nearest(odd[0], PERTURBATIONS))

    def run(self, bench: Bench) -> Iterable[Measurement]:
        """One row per subject, perturbation and drift, and their means."""
        drifts = [drift for drift in bench.task.drifts if drift.over == "sample"]
        if not drifts:
            raise NoEffectError(
                "the task compares no two outputs", where="probe flip_rate", fix="give the task a drift"
            )
        chosen_leaf(bench, self.leaf, who="probe flip_rate")
        table = bench.table(self.split, bench.preprocessing[0])
        if table is None:
            raise InputError(f"no split {self.split!r}", where="probe flip_rate", fix="name a split the task has")
        indices = spread(len(table), self.samples).tolist()
        batch = table.batch(torch.tensor(indices))
        for subject in (bench.eager, *(s for s in bench.subjects if s.name in self.subjects)):
            rates: dict[str, list[Tensor]] = {drift.name: [] for drift in drifts}
            for name in self.perturbations:
                found = self._rates(bench, subject, batch, indices, name, drifts)
                for drift in drifts:
                    rates[drift.name].append(found[drift.name])
                    yield self._row(bench, subject, batch, name, drift, found[drift.name])
            if set(self.perturbations) == set(PERTURBATIONS):
                for drift in drifts:
                    yield self._row(bench, subject, batch, "mean", drift, torch.stack(rates[drift.name]).mean(0))

    def _rates(self, bench: Bench, subject: Subject, batch: Batch, indices: list[int], name: str,
               drifts: list[Drift]) -> dict[str, Tensor]:  # fmt: skip
        """Mean drift over the frames, per sample."""
        total: dict[str, Tensor] = {}
        reference: Any = None
        count = 0
        for outputs in self._outputs(bench, subject, batch, indices, name):
            if reference is None:
                reference = outputs
                continue
            for drift in drifts:
                values, _ = bench.values(drift, (reference, outputs), batch)
                total[drift.name] = total.get(drift.name, 0) + values
            count += 1
            reference = reference if PERTURBATIONS[name].against_first else outputs
        return {drift: values / count for drift, values in total.items()}

    def _outputs(
        self, bench: Bench, subject: Subject, batch: Batch, indices: list[int], name: str
    ) -> Iterator[Outputs]:
        path, leaf = chosen_leaf(bench, self.leaf, who="probe flip_rate")
        x = get_leaf(batch, path)
        draws = Draws(indices, seed=self.seed, purpose=f"flip_rate {name}")
        for frame in frames(to_grey(x, leaf).clamp(0, 255), name, draws):
            moved = from_grey(frame, leaf).to(x.dtype)
            yield bench.run(subject, with_leaf(tree_map(lambda t: t, batch), path, moved))

    def _row(
        self, bench: Bench, subject: Subject, batch: Batch, condition: str, drift: Drift, values: Tensor
    ) -> Measurement:
        executed = subject.executed.startswith(subject.precision)
        moved = condition != "mean" and PERTURBATIONS[condition].moves_pixels and bench.task.geometric
        flags = (("labels_would_move",) if moved else ()) + (() if executed else ("precision_not_executed",))
        return bench.measurement(
            probe="flip_rate", subject=subject, preprocessing=bench.preprocessing[0], split=self.split,
            condition=condition, metric=drift.name, unit=drift.unit, better="neither", values=values,
            groups=bench.groups(batch), flags=flags,
        )  # fmt: skip
