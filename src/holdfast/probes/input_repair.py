"""Input repair: which change of the network input, or of the BatchNorm statistics, makes the model better at once?"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from holdfast.core.contracts import Batch, Measurement, Metric, Subject
from holdfast.core.errors import InputError
from holdfast.core.space import Leaf
from holdfast.explain_drift.domain import DOMAINS, Domain, guess_domain
from holdfast.probes.bench import Bench
from holdfast.weights.batchnorm import has_statistics, recalibrate

__all__ = ["InputRepair", "repairs"]

Repair = Callable[[Tensor], Tensor]
STATISTICS = "batchnorm_statistics"
RECALIBRATION_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class InputRepair:
    """The task's first metric after each repair of the input: a mended fault shows by what it brings back.

    A wrong channel order, missing or wrong normalisation, values 0..255 for 0..1, limited for full range, a mirrored or
    inverted picture: each is undone as if it were there, and the labels tell whether it was. Repairs start from grey
    levels, which the input space of the task declares; where the values themselves look like another normalisation,
    what was declared is tried on them too. The two repairs that help most are also tried together.
    BatchNorm statistics are estimated anew on inputs of the same pipeline, without labels: what that brings back was
    lost to stale statistics (or, under another pipeline than the first, to a shift that they can absorb).

    Args:
        split: which split; needs labels.
        statistics: also estimate BatchNorm statistics anew where the model is at hand. Default yes.
        together: how many of the best repairs are combined with one another. Default 2; 1 combines none.
    """

    split: str = "report"
    statistics: bool = True
    together: int = 2
    needs: ClassVar[frozenset[str]] = frozenset({"forward"})

    def run(self, bench: Bench) -> Iterable[Measurement]:
        """One row per pipeline and repair; the condition is the repair."""
        metric = next(iter(bench.metrics("sample")), None)
        if metric is None:
            raise InputError("the task has no metric per sample", where="input_repair", fix="give it one")
        for pipeline in bench.preprocessing:
            if bench.table(self.split, pipeline) is None:
                continue
            yield from self._pipeline(bench, metric, pipeline)

    def _pipeline(self, bench: Bench, metric: Metric, pipeline: str) -> Iterator[Measurement]:
        batch = bench.batch(self.split, pipeline)
        for path, leaf in bench.task.space:
            image = bench.task.space.values(batch)[path]
            if image.ndim != 4 or image.shape[1] not in (1, 3):
                continue
            found: dict[str, float] = {}
            singles = repairs(leaf, image)
            mark = f"{path}: " if len(bench.task.space.leaves) > 1 else ""
            for name, repair in singles.items():
                changed = _repaired(bench, batch, path, repair)
                row = self._row(bench, bench.eager, metric, pipeline, changed, mark + name)
                found[name] = row.row.value * (1 if metric.better == "higher" else -1)
                yield row
            for name, repair in _combined(singles, found, self.together).items():
                changed = _repaired(bench, batch, path, repair)
                yield self._row(bench, bench.eager, metric, pipeline, changed, mark + name)
        if self.statistics and bench.stand_in is None and has_statistics(bench.model):
            yield self._row(bench, _recalibrated(bench, self.split, pipeline), metric, pipeline, batch, STATISTICS)

    def _row(
        self, bench: Bench, subject: Subject, metric: Metric, pipeline: str, batch: Batch, condition: str
    ) -> Measurement:
        values, groups = bench.values(metric, (bench.run(subject, batch),), batch)
        return bench.measurement(
            probe="input_repair", subject=subject, preprocessing=pipeline, split=self.split, condition=condition,
            metric=metric.name, unit=metric.unit, better=metric.better, values=values, groups=groups,
        )  # fmt: skip


def repairs(leaf: Leaf, image: Tensor) -> dict[str, Repair]:
    """Every single repair of images (B, C, H, W) that are stored as ``leaf`` declares, by name."""
    channels, square = image.shape[1], image.shape[2] == image.shape[3]
    found: dict[str, Repair] = {}
    if channels == 3:
        found["channel_order"] = lambda x: _kept(leaf, _levels(leaf, x).flip(1))
    for domain in _domains(channels):
        found[f"normalised_as_{domain.name}"] = partial(_normalised, leaf, domain)
    found[_declared(leaf, image)] = partial(_as_declared, leaf, guess_domain(image.transpose(0, 1).flatten(1, 2)))
    for name, change in TONES.items():
        found[name] = partial(_toned, leaf, change)
    found["smoothed"] = _smoothed
    found["mirrored"] = lambda x: x.flip(3)
    found["upside_down"] = lambda x: x.flip(2)
    if square:
        found["rows_and_columns_exchanged"] = lambda x: x.mT
    return {name: repair for name, repair in found.items() if not _same(repair(image[:2]), image[:2])}


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-4, atol=1e-4)


TONES: dict[str, Repair] = {
    "limited_to_full_range": lambda v: ((v - 16) * (255 / 219)).clamp(0, 255),
    "full_to_limited_range": lambda v: v * (219 / 255) + 16,
    "gamma_2.2_undone": lambda v: 255 * (v / 255).clamp(0, 1) ** 2.2,
    "gamma_2.2_applied": lambda v: 255 * (v / 255).clamp(0, 1) ** (1 / 2.2),
    "inverted": lambda v: 255 - v,
}
"""Changes of grey levels, which then are stored as they were before."""


def _domains(channels: int) -> Iterator[Domain]:
    for domain in DOMAINS:
        if domain.fits(channels):
            yield domain
            if len(set(domain.mean)) > 1:
                yield domain.reversed()


def _normalised(leaf: Leaf, domain: Domain, x: Tensor) -> Tensor:
    return _stored(domain, _levels(leaf, x))


def _toned(leaf: Leaf, change: Repair, x: Tensor) -> Tensor:
    return _kept(leaf, change(_levels(leaf, x)))


def _declared(leaf: Leaf, image: Tensor) -> str:
    """The repair that gives the declared normalisation to values that have another one, by its constants."""
    levels = torch.zeros_like(image[:1, :, :1, :1]) + 100
    wanted = _kept(leaf, levels)
    alike = [d.name for d in _domains(image.shape[1]) if torch.allclose(_stored(d, levels), wanted, rtol=1e-3)]
    return f"normalised_as_{alike[0] if alike else 'declared'}"


def _as_declared(leaf: Leaf, looks_like: Domain, x: Tensor) -> Tensor:
    return _kept(leaf, looks_like.levels(x))


def _levels(leaf: Leaf, x: Tensor) -> Tensor:
    """Grey levels 0..255 of stored values."""
    return 255 * (x - leaf.stored(leaf.low, x)) / _width(leaf, x)


def _kept(leaf: Leaf, levels: Tensor) -> Tensor:
    """Grey levels stored as the leaf declares: the constants stay with their channels."""
    return leaf.stored(leaf.low, levels) + _width(leaf, levels) * levels / 255


def _width(leaf: Leaf, x: Tensor) -> float | Tensor:
    """From the darkest to the brightest stored value."""
    return leaf.stored(leaf.high, x) - leaf.stored(leaf.low, x)


def _stored(domain: Domain, levels: Tensor) -> Tensor:
    gain, offset = domain.affine(levels.shape[1])
    return levels * gain.to(levels).view(-1, 1, 1) + offset.to(levels).view(-1, 1, 1)


def _smoothed(x: Tensor) -> Tensor:
    """The binomial 3 x 3 filter: it takes away aliasing and noise that training did not have."""
    weights = x.new_tensor([1.0, 2.0, 1.0]) / 4
    kernel = (weights[:, None] * weights).expand(x.shape[1], 1, 3, 3)
    return functional.conv2d(functional.pad(x, (1, 1, 1, 1), mode="replicate"), kernel, groups=x.shape[1])


def _combined(singles: dict[str, Repair], found: dict[str, float], together: int) -> dict[str, Repair]:
    """The channel order with the best of the normalisations, and the best repairs with one another."""
    ranking = sorted(found, key=lambda name: -found[name])
    best = ranking[: max(1, together)]
    pairs = [(a, b) for i, a in enumerate(best) for b in best[i + 1 :]]
    constants = [name for name in ranking if _normalises(name)]
    if "channel_order" in singles and constants and together > 1:
        pairs.append(("channel_order", constants[0]))
    # Everything but the normalisation itself works on what is stored as declared, so that comes last.
    ordered = dict.fromkeys((b, a) if _normalises(a) else (a, b) for a, b in pairs)
    return {f"{a}+{b}": partial(_both, singles[a], singles[b]) for a, b in ordered if not _normalises(a)}


def _both(first: Repair, second: Repair, x: Tensor) -> Tensor:
    return second(first(x))


def _normalises(name: str) -> bool:
    return name.startswith("normalised_as_")


def _repaired(bench: Bench, batch: Batch, path: str, repair: Repair) -> Batch:
    values = bench.task.space.values(batch)
    return bench.task.space.replace(batch, {path: repair(values[path]).contiguous()})


def _recalibrated(bench: Bench, split: str, pipeline: str) -> Subject:
    """The model with statistics of this pipeline's inputs: of training data where there are some."""
    table = bench.table("train", pipeline) or bench.table(split, pipeline)
    assert table is not None
    model = copy.deepcopy(bench.model)
    recalibrate(model, table.batches(RECALIBRATION_BATCH), forward=lambda net, batch: bench.task.forward(net, batch))
    return replace(bench.eager, run=model.eval())
