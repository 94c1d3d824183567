"""``holdfast verify``: is what ships what was trained?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.studies import use_data

__all__ = ["verify"]


def verify(
    weights: Annotated[Path, typer.Argument(help="Weights; in a run folder its study names the task.")],
    task: Annotated[str, typer.Option(help="A built-in task, file.py:name or package.module:name.")] = "",
    data: Annotated[Path | None, typer.Option(help="Folder of the data sets; default: $HOLDFAST_DATA.")] = None,
    subject: Annotated[list[str] | None, typer.Option(help="backend:precision; repeatable.")] = None,
    recorded: Annotated[list[Path] | None, typer.Option(help="outputs.npz from the target; repeatable.")] = None,
    onnx: Annotated[list[Path] | None, typer.Option(help="An ONNX file to run as it is; repeatable.")] = None,
    pipeline: Annotated[list[str] | None, typer.Option(help="First: the reference; default: the study's.")] = None,
    split: Annotated[str, typer.Option(help="Split of single samples.")] = "report",
    sequences: Annotated[str, typer.Option(help="Split of ordered frames; empty: none.")] = "report_sequence",
    margin: Annotated[list[str] | None, typer.Option(help="name=value: arithmetic may differ by that.")] = None,
    total_margin: Annotated[list[str] | None, typer.Option(help="name=value: pipeline and arithmetic.")] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="At most that many samples of a split.")] = None,
    baseline: Annotated[Path | None, typer.Option(help="verify.json of an earlier run.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of results; an interrupted run goes on there.")] = Path("verify"),
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> int:
    """Compare subjects with the trained model: inputs, two-factor table, margins, flips, noise floor.

    Exit code: 0 within all margins (or none given), 1 outside, 2 bad input, 3 inconclusive.
    """
    from holdfast.core.store import atomic_path
    from holdfast.verify.order import SUBJECTS, Order, load_source, read_margins
    from holdfast.verify.page import page
    from holdfast.verify.run import verify as run
    from holdfast.verify.told import changes, read_baseline, text, to_json

    use_data(data)
    source = load_source(weights, task)
    order = Order(
        source=source, out=out, subjects=tuple(subject or SUBJECTS), recorded=tuple(recorded or ()),
        graphs=tuple(onnx or ()), preprocessing=tuple(pipeline or source.pipelines), frames=split,
        sequences=sequences, margins=read_margins(margin or ()), total_margins=read_margins(total_margin or ()),
        limit=limit,
    )  # fmt: skip
    earlier = read_baseline(baseline) if baseline else None
    found = run(order, quiet=quiet)
    moved = changes(found, earlier) if earlier else []
    record = json.dumps(to_json(found, moved), indent=1, allow_nan=False)
    for name, content in (("verify.json", record), ("verify.html", page(found, moved))):
        with atomic_path(out / name) as path:
            path.write_text(content, encoding="utf-8")
    print(record if as_json else f"{text(found, moved)}\n\nreport: {out / 'verify.html'}")
    return found.exit_code
