"""Layer criticality: which layers does the model depend on, and which would suffer at a lower precision?"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from holdfast.core.contracts import Batch, Measurement, Outputs
from holdfast.core.errors import InputError
from holdfast.deploy.emulate import PRECISIONS
from holdfast.deploy.layer_precision import cast, input_ranges, quantise
from holdfast.probes.bench import Bench
from holdfast.probes.pieces import batch_size
from holdfast.surgery.criticality import Change, Finding, Questions, reset, sweep
from holdfast.surgery.owned import Layer, owned_layers
from holdfast.weights.batchnorm import has_statistics, recalibrate
from holdfast.weights.travel import permuted, travel
from holdfast.weights.trial import copy_state, with_weights

__all__ = ["Criticality"]


@dataclass(frozen=True, kw_only=True)
class Criticality:
    """Resets, redraws, rounds or quantises one layer at a time and measures the task's metrics (Zhang et al. 2022).

    A layer is a module with weights of its own; its weight and bias move together. Conditions: ``reference``;
    ``reinit LAYER``: the weights before training, and ``reinit LABEL LAYER`` for every other checkpoint on the bench;
    ``rerand LAYER``: fresh draws from the initialisation law, values averaged over the draws; ``int8 LAYER``,
    ``fp16 LAYER``, ``bf16 LAYER``: only this layer at that precision; ``reinit robust layers``: all that are robust
    alone, reset together. The same with ``recalibrated`` behind it: BatchNorm statistics estimated anew after the
    change, against a reference that was recalibrated, too. Metrics: the task's metrics and drifts per sample;
    ``critical``: 1 where the primary metric is worse by more than ``tolerance``; ``draw_spread``: the deviation between
    draws; distances from the start under ``travel LAYER``.

    Without the weights before training nothing is re-initialised, and fresh draws come from the task's
    ``build_model``, which rows say by the flag ``init_law_assumed``.

    Args:
        kinds: of ``reinit``, ``rerand``, ``int8``, ``fp16``, ``bf16``, ``tf32``. Default the first two.
        split: which split.
        samples: how many samples, spread evenly over the split.
        tolerance: share of the reference's mean by which a robust layer may worsen the primary metric. Default 0.05.
        draws: fresh draws of each layer; one is noise. Default 5.
        risk: chance that a verdict differs from that on all samples; 0 asks every sample. Default 0.01.
        recalibration: samples of the ``train`` split for BatchNorm; 0, or a task without the split, measures as is
            only. Default 1024.
        layers: names of the layers to change; default all.
        seed: of the draws and of the order of samples.

    Raises:
        InputError: an unknown kind or layer, or a split the task lacks.
    """

    kinds: tuple[str, ...] = ("reinit", "rerand")
    split: str = "report"
    samples: int = 2048
    tolerance: float = 0.05
    draws: int = 5
    risk: float = 0.01
    recalibration: int = 1024
    layers: tuple[str, ...] = ()
    seed: int = 0
    needs: ClassVar[frozenset[str]] = frozenset({"forward", "weights"})

    def __post_init__(self) -> None:
        known = {"reinit", "rerand", "int8", *PRECISIONS}
        if odd := [kind for kind in self.kinds if kind not in known]:
            raise InputError(f"unknown kind {odd[0]!r}", where="criticality", fix=f"use some of {sorted(known)}")

    def run(self, bench: Bench) -> Iterable[Measurement]:
        """Rows for the reference, for every kind and layer, and for the distances."""
        asking = _Asking(self, bench)
        yield from asking.travels()
        yield from self._sweep(asking, recalibrated=False)
        there = bench.table("train", bench.preprocessing[0]) is not None
        resets = {"reinit", "rerand"} & set(self.kinds)
        if self.recalibration and there and resets and has_statistics(bench.model):
            with with_weights(bench.model, asking.recalibrated(copy_state(bench.model))):
                found = list(self._sweep(asking, recalibrated=True))  # whoever takes a row finds the model as it was
            yield from found

    def _sweep(self, asking: _Asking, *, recalibrated: bool) -> Iterator[Measurement]:
        mark = " recalibrated" if recalibrated else ""
        changes = asking.changes()
        if recalibrated:
            changes = [
                asking.with_recalibration(change) for change in changes if change.kind.startswith(("reinit", "rerand"))
            ]
        findings = sweep(asking.questions, changes, tolerance=asking.tolerance, risk=self.risk)
        yield from asking.reference(mark)
        verdicts: dict[tuple[str, str], bool] = {}
        for (kind, layer), draws in _by_layer(findings).items():
            # A model that gives NaN is broken: no comparison with it holds.
            verdicts[kind, layer] = not float(np.mean([draw.damage for draw in draws])) <= asking.tolerance
            yield from asking.rows(f"{kind} {layer}{mark}", draws, critical=verdicts[kind, layer])
        robust = [layer for (kind, layer), critical in verdicts.items() if kind == "reinit" and not critical]
        if len(robust) > 1 and not recalibrated:
            joint = sweep(asking.questions, [asking.jointly(robust)], tolerance=asking.tolerance, risk=self.risk)
            yield from asking.rows("reinit robust layers", joint, critical=joint[0].critical)


def _by_layer(findings: Sequence[Finding]) -> dict[tuple[str, str], list[Finding]]:
    found: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        found.setdefault((finding.change.kind, finding.change.layer), []).append(finding)
    return found


class _Asking:
    """One model's layers, the samples it is asked, and its rows."""

    def __init__(self, probe: Criticality, bench: Bench) -> None:
        self.probe, self.bench = probe, bench
        self.pipeline = bench.preprocessing[0]
        self.batch = bench.spread(probe.split, self.pipeline, limit=probe.samples)
        self.metrics = bench.metrics("sample")
        if not self.metrics:
            raise InputError("the task has no metric per sample", where="criticality", fix="give it one")
        self.drifts = [drift for drift in bench.task.drifts if drift.over == "sample"]
        self.layers = self._layers()
        self._redrawn: dict[int, Mapping[str, Tensor]] = {}
        self.questions = Questions(
            model=bench.model, size=batch_size(self.batch), batch=lambda i: tree_map(lambda t: t[i], self.batch),
            forward=lambda model, batch: bench.task.forward(model, batch), judge=self._judge,
            better=self.metrics[0].better, seed=probe.seed,
        )  # fmt: skip

    def _layers(self) -> dict[str, Layer]:
        found = owned_layers(self.bench.model)
        if odd := [name for name in self.probe.layers if name not in found]:
            raise InputError(f"no layer {odd[0]!r}", where="criticality", fix=f"layers: {', '.join(found)}")
        return {name: layer for name, layer in found.items() if not self.probe.layers or name in self.probe.layers}

    def _judge(self, outputs: Outputs, reference: Outputs, batch: Batch) -> Mapping[str, Tensor]:
        values = {metric.name: metric.compute(outputs, batch) for metric in self.metrics}
        return values | {drift.name: drift.compute(reference, outputs, batch) for drift in self.drifts}

    @cached_property
    def tolerance(self) -> float:
        """In the unit of the primary metric."""
        outputs = self.bench.run(self.bench.eager, self.batch)
        return self.probe.tolerance * abs(float(self.metrics[0].compute(outputs, self.batch).double().nanmean()))

    # --- what is done to the layers ---

    def changes(self) -> list[Change]:
        """One change per kind and layer, and per draw."""
        found: list[Change] = []
        model, initial = self.bench.model, self.bench.initial
        ranges = self._ranges() if "int8" in self.probe.kinds else {}
        for kind in self.probe.kinds:
            for layer in self.layers.values():
                if kind == "reinit":
                    found += [reset(model, [layer], initial, kind=kind)] if initial is not None else []
                    found += [
                        reset(model, [layer], state, kind=f"{kind} {label}")
                        for label, state in self.bench.checkpoints.items()
                    ]
                elif kind == "rerand":
                    states = (self._draw(layer, draw) for draw in range(self.probe.draws))
                    found += [reset(model, [layer], state, kind=kind) for state in states]
                elif kind == "int8":
                    found += [quantise(model, layer, ranges)] if set(layer.modules) & set(ranges) else []
                elif any(layer.modules):
                    found.append(cast(model, layer, kind))
        if not found:
            raise InputError(f"nothing to change for {', '.join(self.probe.kinds)}", where="criticality",
                             fix="keep the weights before training (holdfast.weights.checkpoints)")  # fmt: skip
        return found

    def jointly(self, names: Sequence[str]) -> Change:
        """All of some layers back to their start."""
        assert self.bench.initial is not None
        layers = [self.layers[name] for name in names]
        return reset(self.bench.model, layers, self.bench.initial, kind="reinit", name="robust layers")

    def _draw(self, layer: Layer, draw: int) -> Mapping[str, Tensor]:
        seed = 1000 * self.probe.seed + draw + 1
        if self.bench.redraw is not None:
            if seed not in self._redrawn:
                self._redrawn[seed] = self.bench.redraw(seed)
            return self._redrawn[seed]
        if self.bench.initial is not None:
            return permuted(self.bench.initial, layer.parameters, torch.Generator().manual_seed(seed))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.bench.task.build_model().state_dict()

    def _ranges(self) -> dict[str, tuple[float, float]]:
        split = "calibration" if self.bench.table("calibration", self.pipeline) is not None else "train"
        batch = self.bench.spread(split, self.pipeline, limit=128)
        return input_ranges(self.bench.model, partial(self.bench.task.forward, self.bench.model), [batch])

    # --- BatchNorm ---

    @cached_property
    def recalibration_batches(self) -> list[Batch]:
        """Training samples for the statistics."""
        batch = self.bench.spread("train", self.pipeline, limit=self.probe.recalibration)
        parts = torch.split(torch.arange(batch_size(batch)), 128)
        return [tree_map(lambda t, i=part: t[i], batch) for part in parts]

    def recalibrated(self, state: Mapping[str, Any]) -> dict[str, Tensor]:
        """A state with its statistics estimated anew."""
        with with_weights(self.bench.model, state) as model:
            recalibrate(model, self.recalibration_batches, forward=self.bench.task.forward)
            return copy_state(model)

    def with_recalibration(self, change: Change) -> Change:
        """The same change, with the statistics that belong to it."""
        before = copy_state(self.bench.model)
        with change.entered():
            changed = copy_state(self.bench.model)
        after = self.recalibrated(changed)
        moved = {name: value for name, value in after.items() if not torch.equal(value, before[name])}
        layer = Layer(name=change.layer, modules=tuple({name.rpartition(".")[0] for name in moved} | change.modules),
                      parameters=tuple(moved))  # fmt: skip
        return reset(self.bench.model, [layer], moved, kind=change.kind)

    # --- rows ---

    def reference(self, mark: str) -> Iterator[Measurement]:
        """The unchanged model's metrics."""
        outputs = self.bench.run(self.bench.eager, self.batch)
        for metric in self.metrics:
            values, groups = self.bench.values(metric, (outputs,), self.batch)
            yield self._row(f"reference{mark}", metric.name, metric.unit, metric.better, values.numpy(), groups)

    def rows(self, condition: str, draws: Sequence[Finding], *, critical: bool) -> Iterator[Measurement]:
        """Metrics, drifts and the verdict of one change; values are means over its draws."""
        asked = min(draw.asked for draw in draws)
        groups = self.bench.groups(self.batch)[self.questions.order().numpy()[:asked]]
        directions = {m.name: (m.unit, m.better) for m in self.metrics} | {
            d.name: (d.unit, "neither") for d in self.drifts
        }
        for name, (unit, better) in directions.items():
            values = np.mean([draw.values[name][:asked] for draw in draws], axis=0)
            yield self._row(condition, name, unit, better, values, groups)
        if len(draws) > 1:
            name = self.metrics[0].name
            spread = float(np.std([draw.values[name][:asked].mean() for draw in draws], ddof=1))
            yield self._single(condition, "draw_spread", self.metrics[0].unit, spread)
        yield self._single(condition, "critical", "1", float(critical))

    def travels(self) -> Iterator[Measurement]:
        """Distances of every layer from its start, in four norms that rank layers differently."""
        if self.bench.initial is None:
            return
        state = self.bench.model.state_dict()
        for layer in self.layers.values():
            found = dataclasses.asdict(travel(self.bench.initial, state, layer.parameters))
            for name in ("l2", "rms", "linf", "relative"):
                yield self._single(f"travel {layer.name}", f"travel_{name}", "1", found[name])

    def _single(self, condition: str, metric: str, unit: str, value: float) -> Measurement:
        return self._row(condition, metric, unit, "neither", np.array([value]), np.zeros(1, dtype=np.int64))

    def _row(self, condition: str, metric: str, unit: str, better: Any, values: np.ndarray,
             groups: np.ndarray) -> Measurement:  # fmt: skip
        assumed = self.bench.redraw is None and self.bench.initial is None and condition.startswith("rerand")
        return self.bench.measurement(
            probe="criticality", subject=self.bench.eager, preprocessing=self.pipeline, split=self.probe.split,
            condition=condition, metric=metric, unit=unit, better=better, values=values, groups=groups,
            flags=("init_law_assumed",) if assumed else (),
        )  # fmt: skip
