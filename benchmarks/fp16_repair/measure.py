"""A lane net that fp16 bends: lint finds the cause, the plan search repairs it, verify passes.

holdfast run benchmarks/fp16_repair/study.yaml --out RUN
OMP_NUM_THREADS=1 python benchmarks/fp16_repair/measure.py RUN > benchmarks/fp16_repair/log.txt
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import onnx
import torch

from holdfast.core.contracts import PrecisionPlan
from holdfast.core.fingerprint import environment
from holdfast.core.progress import Progress
from holdfast.deploy.casts import emulate_plan, lowerable
from holdfast.deploy.export import export_onnx
from holdfast.deploy.graph import GraphView
from holdfast.deploy.lint import lint
from holdfast.deploy.ort import open_session, run_session
from holdfast.verify.cells import Cells
from holdfast.verify.order import Order, Source, load_source
from holdfast.verify.repair import SEARCH_SAMPLES, Damage, repair
from holdfast.verify.run import verify

MARGINS = {"displacement_42m": 0.02}
FRAMES = 120
"""Of the report split; and of its sequences, one drive of six seconds."""
QUANTITIES = ("displacement_42m", "displacement_20m", "displacement_bend", "displacement_sway_20m",
              "displacement_sway_42m", "lateral_error_42m")  # fmt: skip


def measure(source: Source, folder: Path) -> None:
    example = (torch.rand(2, 3, 96, 160),)
    graph = onnx.load(export_onnx(source.model, example, folder / "graphs").path)
    errors = [hazard for hazard in lint(graph) if hazard.severity == "error"]
    print("lint, errors:")
    for hazard in errors:
        print(f"  {hazard.rule} at {hazard.node}: {hazard.reason}")
    order = Order(source=source, out=folder, subjects=("eager:fp32",), limit=FRAMES)
    ((drift, margin),) = MARGINS.items()
    found = repair(order, drift, margin, quiet=True)
    search = found.search
    total = len(lowerable(GraphView(graph)))
    print(f"repair for {drift} below {margin} m: {len(search.nodes)} of {total} nodes in fp32, "
          f"{search.evaluations} evaluations of the gate, {len(search.sensitivity)} rankings on 8 samples")  # fmt: skip
    flagged = {hazard.node for hazard in errors}
    for node in search.nodes:
        print(f"  {node}{'  (named by lint)' if node in flagged else ''}")
    one_by_one, evaluations = greedy(graph, order, drift, margin)
    print(f"raising nodes one at a time, the best first: {one_by_one} nodes, {evaluations} evaluations of the gate "
          f"({evaluations / search.evaluations:.1f} times as many)")  # fmt: skip
    plans = {"fp16": PrecisionPlan(default="fp16"), "repaired": search.plan}
    for name, plan in plans.items():
        assert plan is not None
        path = folder / f"{name}.onnx"
        onnx.save(emulate_plan(graph, plan), path)
        verified = verify(replace(order, graphs=(path,), margins=MARGINS, out=folder / f"verify-{name}"), quiet=True)
        print(f"verify of {name} (emulated): {verified.outcome}")
        for part in verified.compared:
            if part.factor == "arithmetic":
                for f in part.findings:
                    if f.name in QUANTITIES:
                        i = f.interval
                        print(f"  {f.name}: {i.estimate:.4f} {f.unit} [{i.low:.4f}, {i.high:.4f}], "
                              f"worst {f.worst:.3f}, n {f.samples} in {i.n} groups")  # fmt: skip


def greedy(graph: onnx.ModelProto, order: Order, drift: str, margin: float) -> tuple[int, int]:
    """Raise the node that helps most, again and again, until the gate passes: how many, after how many evaluations."""
    names = lowerable(GraphView(graph))
    with Progress(quiet=True) as progress, Cells(order, progress) as cells:
        table = cells.table("val", order.preprocessing[0])
        chosen = torch.linspace(0, len(table) - 1, min(SEARCH_SAMPLES, len(table))).long()
        known = next(d for d in cells.task.drifts if d.name == drift)
        damage = Damage(cells, graph, known, table.batch(chosen))
        exact = outputs(graph, damage.inputs)

        def under(kept: set[str]) -> float:
            plan = PrecisionPlan(default="fp16", nodes=dict.fromkeys(kept, "fp32"))
            return damage(exact, outputs(emulate_plan(graph, plan), damage.inputs))

        kept: set[str] = set()
        evaluations, now = 1, under(kept)
        while now > margin and len(kept) < len(names):
            tried = {name: under(kept | {name}) for name in names if name not in kept}
            evaluations += len(tried)
            best = min(tried, key=tried.__getitem__)
            kept.add(best)
            now = tried[best]
    return len(kept), evaluations


def outputs(graph: onnx.ModelProto, inputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    return run_session(open_session(graph.SerializeToString(), threads=1), inputs)


def main() -> None:
    torch.set_num_threads(1)
    print(environment())
    for path in sorted(Path(sys.argv[1]).glob("weights/*/last.safetensors")):
        source = load_source(path)
        if source.about["recipe"] != "baseline":
            continue
        print(f"\nseed {source.about.get('init_seed')}")
        with tempfile.TemporaryDirectory() as folder:
            measure(source, Path(folder))


if __name__ == "__main__":
    main()
