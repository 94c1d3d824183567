"""The smallest repair of a low-precision graph in task units: hazards, search, and confirmation on other samples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor

from holdfast.core.contracts import Batch, Drift, PrecisionPlan
from holdfast.core.errors import InputError, nearest
from holdfast.core.progress import Progress
from holdfast.core.store import atomic_path
from holdfast.data.table import spread
from holdfast.deploy.casts import emulate_plan, lowerable, type_plan
from holdfast.deploy.export import LAYOUT, export_onnx
from holdfast.deploy.graph import GraphView
from holdfast.deploy.lint import Hazard, lint
from holdfast.deploy.nest import unflatten
from holdfast.deploy.ort import open_session, run_session
from holdfast.deploy.parity import Finding, judge
from holdfast.deploy.plans import write_plan
from holdfast.deploy.quantise import Quantisation
from holdfast.deploy.search import Repair, find_repair
from holdfast.probes.bench import Bench
from holdfast.select.bootstrap import within_run
from holdfast.verify.cells import Cells
from holdfast.verify.measure import bench_of
from holdfast.verify.order import Order

__all__ = ["Damage", "Repaired", "repair"]

SEARCH_SPLITS = ("val", "calibration", "train")
SEARCH_SAMPLES = 128


@dataclass(frozen=True, kw_only=True)
class Repaired:
    """What was found and what it is worth.

    Args:
        drift, unit, margin: what was asked: the mean of this drift stays below the margin.
        precision: of all nodes that are not kept in fp32.
        nodes: how many could be lowered.
        hazards: what lint says of the nodes that have to stay in fp32.
        search: the set and how it was found, on samples of ``searched``.
        searched, confirmed: splits.
        before, after: the drift on ``confirmed``, without and with the repair.
    """

    drift: str
    unit: str
    margin: float
    precision: str
    nodes: int
    hazards: tuple[Hazard, ...]
    search: Repair
    searched: str
    confirmed: str
    before: Finding
    after: Finding

    @property
    def exit_code(self) -> int:
        """0 confirmed, 1 not repaired, 3 inconclusive."""
        return {"PASS": 0, "FAIL": 1}.get(self.after.outcome or "", 3) if self.search.plan is not None else 1


def repair(order: Order, drift: str, margin: float, *, precision: str = "fp16", quiet: bool = False) -> Repaired:
    """Find the fewest nodes to keep in fp32 so that a drift passes its margin; write graph, plan and layer flags.

    The search runs on a split that is not reported, and asks for the upper end of the 90 % interval of the mean, which
    is what a margin asks for; the result is confirmed on ``order.frames``. fp16 and bf16 are emulated by casts, int8
    is ONNX Runtime's. Into ``order.out`` go ``repaired.onnx`` (with casts or quantised; not for bf16), ``plan.json``
    and ``trtexec.txt`` with the layer precisions for TensorRT 10.

    Args:
        order: the model and where results go.
        drift: name of a drift over samples.
        margin: in its unit.
        precision: ``fp16``, ``bf16`` or ``int8``.
        quiet: no progress.

    Raises:
        InputError: no such drift over samples.
        BackendError: the model cannot be exported.
    """
    task = order.source.task
    known = {d.name: d for d in task.drifts if d.over == "sample"}
    if drift not in known:
        raise InputError(f"no drift over samples {drift!r}", where="--margin", fix=nearest(drift, known))
    with Progress(quiet=quiet) as progress, Cells(order, progress) as cells:
        path = export_onnx(cells.model, cells.few(2), order.out / "artefacts").path
        graph, pipeline = onnx.load(path), order.preprocessing[0]
        lowering = _Casts(graph) if precision != "int8" else Quantisation(
            graph=path, calibration=cells.calibration(), folder=order.out / "artefacts")  # fmt: skip
        searched = next(split for split in SEARCH_SPLITS if cells.has(split))
        table = cells.table(searched, pipeline)
        work = progress.add(f"search on {searched}", total=1)
        searching = Damage(cells, graph, known[drift], table.batch(spread(len(table), SEARCH_SAMPLES)))
        found = find_repair(graph, [searching.inputs], searching, margin, precision=precision, names=lowering.names,
                            lower=lowering)  # fmt: skip
        progress.advance(work)
        damage = Damage(cells, graph, known[drift], cells.batch(order.frames, pipeline))
        plans = (PrecisionPlan(default=precision), found.plan or PrecisionPlan(default=precision))
        before, after = (damage.finding(lowering(plan), margin, order.alpha) for plan in plans)
        if found.plan is not None:
            _write(found.plan, type_plan(graph, found.plan) if precision == "fp16" else lowering(found.plan), order.out)
    hazards = tuple(hazard for hazard in lint(graph, precision="fp16") if hazard.node in found.nodes)
    return Repaired(
        drift=drift, unit=known[drift].unit, margin=margin, precision=precision, search=found,
        hazards=hazards if precision != "int8" else (), nodes=len(lowering.names), searched=searched,
        confirmed=order.frames, before=before, after=after,
    )  # fmt: skip


class _Casts:
    """The graph under a plan of casts."""

    def __init__(self, graph: onnx.ModelProto) -> None:
        self.graph, self.names = graph, lowerable(GraphView(graph))

    def __call__(self, plan: PrecisionPlan) -> onnx.ModelProto:
        return emulate_plan(self.graph, plan)


def _write(plan: PrecisionPlan, repaired: onnx.ModelProto, folder: Path) -> None:
    write_plan(plan, folder / "plan.json")
    if plan.default != "bf16":  # whose emulation is no graph to ship
        with atomic_path(folder / "repaired.onnx") as path:
            onnx.save(repaired, path)
    flags = ",".join(f'"{name}":fp32' for name in plan.nodes)
    with atomic_path(folder / "trtexec.txt") as path:
        kept = f" --precisionConstraints=obey --layerPrecisions={flags}" if flags else ""
        path.write_text(f"trtexec --onnx=model.onnx --{plan.default}{kept}\n", encoding="utf-8")


class Damage:
    """A drift as the search asks for it: upper end of the interval of its mean over the samples that are given."""

    def __init__(self, cells: Cells, graph: onnx.ModelProto, drift: Drift, batch: Batch) -> None:
        self.drift, self.batch, self.graph = drift, batch, graph
        self.bench: Bench = bench_of(cells)
        self.inputs: tuple[Tensor, ...] = cells.task.inputs(batch)
        self.layout = _layout(graph)

    def __call__(self, exact: list[Tensor], lowered: list[Tensor]) -> float:
        """Infinite where an output is not finite."""
        values, groups = self._values(exact, lowered)
        if not np.isfinite(values).all():
            return float("inf")
        interval = within_run(values, groups, confidence=0.9)
        return interval.high if interval.bounded else interval.estimate

    def finding(self, lowered: onnx.ModelProto, margin: float, alpha: float) -> Finding:
        """The drift of a graph from the exact one, judged."""
        exact, other = (run_session(open_session(g.SerializeToString(), threads=1), self.inputs)
                        for g in (self.graph, lowered))  # fmt: skip
        values, groups = self._values(exact, other)
        # A value that is not finite is as far off as can be, not one that does not count.
        values = np.where(np.isfinite(values), values, np.finfo(np.float32).max)
        return judge(values, groups, name=self.drift.name, unit=self.drift.unit, kind="displacement", margin=margin,
                     alpha=alpha)  # fmt: skip

    def _values(self, exact: Sequence[Tensor], lowered: Sequence[Tensor]) -> tuple[np.ndarray, np.ndarray]:
        batch = torch.utils._pytree.tree_map(lambda column: column[: len(exact[0])], self.batch)
        reference, other = (unflatten(list(tensors), self.layout) for tensors in (exact, lowered))
        values, groups = self.bench.values(self.drift, (reference, other), batch)
        return values.numpy(), groups


def _layout(graph: onnx.ModelProto) -> object:
    return json.loads(next(entry.value for entry in graph.metadata_props if entry.key == LAYOUT))
