"""``holdfast repair``: the fewest nodes that must stay in fp32 for a low-precision graph to keep its promise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli.studies import use_data
from holdfast.core.errors import InputError

if TYPE_CHECKING:
    from holdfast.verify.repair import Repaired

__all__ = ["repair"]


def repair(
    weights: Annotated[Path, typer.Argument(help="Weights; in a run folder its study names the task.")],
    margin: Annotated[str, typer.Option(help="drift=value, as displacement_42m=0.02: what the result must keep.")],
    precision: Annotated[str, typer.Option(help="fp16, bf16 or int8: what all other nodes run in.")] = "fp16",
    task: Annotated[str, typer.Option(help="A built-in task, file.py:name or package.module:name.")] = "",
    data: Annotated[Path | None, typer.Option(help="Folder of the data sets; default: $HOLDFAST_DATA.")] = None,
    pipeline: Annotated[str, typer.Option(help="Preprocessing of the samples.")] = "train",
    split: Annotated[str, typer.Option(help="Split on which the result is confirmed.")] = "report",
    limit: Annotated[int | None, typer.Option(min=2, help="At most that many samples to confirm on.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of graph, plan and layer flags.")] = Path("repaired"),
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> int:
    """Search which nodes to keep in fp32, on the CPU, and confirm it on samples the search has not seen.

    Exit code: 0 confirmed, 1 cannot be repaired, 2 bad input, 3 inconclusive.
    """
    from holdfast.core.plain import plain
    from holdfast.core.store import atomic_path
    from holdfast.verify.order import Order, load_source, read_margins
    from holdfast.verify.repair import repair as run

    use_data(data)
    if precision not in ("fp16", "bf16", "int8"):
        raise InputError(f"no precision {precision!r}", where="repair", fix="fp16, bf16 or int8")
    ((drift, value),) = read_margins([margin]).items()
    source = load_source(weights, task)
    order = Order(
        source=source, out=out, subjects=(), preprocessing=(pipeline,), frames=split, sequences="", limit=limit
    )  # fmt: skip
    order.check()
    found = run(order, drift, value, precision=precision, quiet=quiet)
    record = json.dumps({"format": "holdfast repair 1", **plain(found)}, indent=1)
    with atomic_path(out / "repair.json") as path:
        path.write_text(record, encoding="utf-8")
    print(record if as_json else "\n".join([*_lines(found), "", f"written to {out}"]))
    return found.exit_code


def _lines(found: Repaired) -> list[str]:
    unit = "" if found.unit == "1" else f" {found.unit}"
    low, high = found.before.interval, found.after.interval
    lines = [f"{found.precision} moves {found.drift} by {low.estimate:.3g}{unit} on {found.confirmed}"
             f" ({found.before.samples} samples), allowed {found.margin:g}{unit}: {found.before.outcome}"]  # fmt: skip
    if found.search.plan is None:
        return [*lines, "not even fp32 in all nodes keeps the margin: is it below the noise floor?"]
    if not found.search.nodes:
        return [*lines, "nothing needs repair"]
    lines.append(
        f"with {len(found.search.nodes)} of {found.nodes} nodes in fp32: {high.estimate:.3g}{unit}: "
        f"{found.after.outcome}"
    )
    reasons = {hazard.node: f": {hazard.rule}: {hazard.reason}" for hazard in found.hazards}
    lines += [f"  {node}{reasons.get(node, '')}" for node in found.search.nodes]
    how = "by ONNX Runtime" if found.precision == "int8" else "emulated"
    return [*lines, f"found with {found.search.evaluations} evaluations on {found.searched}, {how}"]
