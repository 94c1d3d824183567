"""``holdfast export``: weights to ONNX, checked against the model, with a manifest beside it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli.studies import use_data
from holdfast.core.errors import InputError

if TYPE_CHECKING:
    from holdfast.core.contracts import PrecisionPlan
    from holdfast.verify.order import Source

__all__ = ["export"]


def export(
    weights: Annotated[Path, typer.Argument(help="Weights; in a run folder its study names the task.")],
    out: Annotated[Path, typer.Option(help="The .onnx file to write.")] = Path("model.onnx"),
    task: Annotated[str, typer.Option(help="A built-in task, file.py:name or package.module:name.")] = "",
    data: Annotated[Path | None, typer.Option(help="Folder of the data sets; default: $HOLDFAST_DATA.")] = None,
    precision: Annotated[str, typer.Option(help="fp32, fp16 (typed graph) or int8 (quantised graph).")] = "fp32",
    plan: Annotated[Path | None, typer.Option(help="PrecisionPlan as JSON; takes the place of --precision.")] = None,
    pipeline: Annotated[str, typer.Option(help="Preprocessing that will have been done.")] = "train",
    inside: Annotated[bool, typer.Option("--inside", help="Put that preprocessing into the graph, fp32 only.")] = False,
) -> None:
    """Export to ONNX: batch normalisation folded, batch size dynamic, outputs compared with the model's.

    Beside ``model.onnx`` stands ``model.json``: weights, input range, versions, hazards found in the graph. Raw weights
    that lie beside an average of the same model are exported with a warning. With ``--inside`` the graph takes frames
    as the sensor gives them, so that no vehicle can preprocess them otherwise.
    """
    from holdfast.core.contracts import PrecisionPlan
    from holdfast.core.store import atomic_path
    from holdfast.deploy.manifest import manifest
    from holdfast.deploy.plans import read_plan
    from holdfast.verify.order import load_source
    from holdfast.weights.provenance import averages_beside

    use_data(data)
    source, passed_over = load_source(weights, task), averages_beside(weights)
    for average in passed_over:
        print(f"WARNING: these are raw weights, though an average exists: {average}", file=sys.stderr)
    wanted = read_plan(plan) if plan else PrecisionPlan(default=precision)
    if wanted.default not in ("fp32", "fp16", "int8"):
        raise InputError(f"no precision {wanted.default!r}", where="export", fix="one of fp32, fp16, int8")
    if inside and (wanted.default != "fp32" or wanted.nodes):
        raise InputError(
            "preprocessing inside the graph is fp32", where="--inside", fix="leave it outside, or give fp32"
        )
    folded = _write(source, wanted, pipeline, out, inside=inside)
    described = manifest(
        out, source.task, source.model, pipeline=pipeline, precision=wanted.default, about=source.about,
        folded=folded,
    )  # fmt: skip
    described["weights"]["averages_passed_over"] = passed_over
    described["preprocessing_inside"] = inside
    with atomic_path(out.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(described, indent=1), encoding="utf-8")
    _tell(out, described, wanted.default)


def _write(source: Source, plan: PrecisionPlan, pipeline: str, out: Path, *, inside: bool) -> tuple[str, ...]:
    """Export in a folder of its own and keep the result alone; gives the normalisations that were folded."""
    from holdfast.core.progress import Progress
    from holdfast.core.store import atomic_path
    from holdfast.deploy.casts import write_typed
    from holdfast.deploy.export import export_onnx
    from holdfast.deploy.preprocessed import Preprocessed
    from holdfast.deploy.quantise import Quantiser, quantise
    from holdfast.verify.cells import Cells
    from holdfast.verify.order import Order

    with TemporaryDirectory(prefix="holdfast-") as folder, Progress() as progress:
        work = Path(folder)
        order = Order(source=source, out=work, subjects=(), preprocessing=(pipeline,), sequences="")
        order.check()
        with Cells(order, progress) as cells:
            if inside:
                model = Preprocessed(source.model, source.task, pipeline).eval()
                graph = export_onnx(model, (model.frames(cells.sensor(2)),), work)
            else:
                graph = export_onnx(source.model, cells.few(2), work)
            path = graph.path
            if plan.default == "fp16":
                path = write_typed(path, plan, work)
            elif plan.default == "int8":
                path = quantise(path, cells.calibration(), Quantiser.of(plan), sorted(plan.nodes), work)
        with atomic_path(out) as temporary:
            temporary.write_bytes(path.read_bytes())
    return graph.folded


def _tell(out: Path, described: dict[str, Any], precision: str) -> None:
    import onnx

    from holdfast.deploy.lint import lint

    print(f"{out}: {described['graph']['nodes']} nodes, {precision}, opset {described['graph']['opset']}")
    for hazard in described["hazards"]:
        print(f"  {hazard['severity']}: {hazard['node']}: {hazard['reason']}; {hazard['fix']}")
    if precision == "fp32" and (low := [h for h in lint(onnx.load(out)) if h.severity == "error"]):
        print(f"  in fp16 {len(low)} hazards, first {low[0].rule} at {low[0].node}; holdfast repair finds what to keep")
