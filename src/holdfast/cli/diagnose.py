"""``holdfast diagnose``: where does it break, and why?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.studies import default_workers, use_data

__all__ = ["diagnose"]


def diagnose(
    subject: Annotated[Path, typer.Argument(help="Weights, an ONNX file, or outputs.npz from the target.")],
    task: Annotated[str, typer.Option(help="A built-in task, file.py:name or package.module:name.")] = "",
    out: Annotated[Path, typer.Option(help="Folder of results; an interrupted run goes on there.")] = Path("diagnosis"),
    quick: Annotated[bool, typer.Option("--quick", help="First findings within a minute: few samples.")] = False,
    prescribe: Annotated[bool, typer.Option("--prescribe", help="Say what to do; write a study.yaml.")] = False,
    twin: Annotated[Path | None, typer.Option(help="Weights of the same model, for attacks on a session.")] = None,
    pipeline: Annotated[list[str] | None, typer.Option(help="The first is the reference; default: all.")] = None,
    compare: Annotated[list[str] | None, typer.Option(help="backend:precision to compare; repeatable.")] = None,
    probe: Annotated[list[str] | None, typer.Option(help="Only these probes; repeatable.")] = None,
    split: Annotated[str, typer.Option(help="Split of single samples, with labels.")] = "report",
    sequences: Annotated[str, typer.Option(help="Split of ordered frames; empty: none.")] = "report_sequence",
    limit: Annotated[int | None, typer.Option(min=2, help="At most that many samples of a split.")] = None,
    tolerance: Annotated[float | None, typer.Option(min=0, help="What the first metric may lose.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the data sets; default: $HOLDFAST_DATA.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes; 0: this one; default: one a core.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> int:
    """Find what breaks a subject, from what strength, and which layer or preprocessing step carries it.

    Exit code: 0 it holds as it ships, 1 as it ships it is damaged, 2 bad input, 3 some probes did not finish.
    """
    use_data(data)
    from holdfast.core.store import atomic_path
    from holdfast.diagnose.order import Order
    from holdfast.diagnose.page import page
    from holdfast.diagnose.prescription import study_text
    from holdfast.diagnose.run import diagnose as run
    from holdfast.diagnose.told import text, to_json

    order = Order(
        path=subject, task=task, out=out, twin=twin, quick=quick, split=split, sequences=sequences,
        pipelines=tuple(pipeline or ()), subjects=tuple(compare or ()), probes=tuple(probe or ()), limit=limit,
        tolerance=tolerance,
    )  # fmt: skip
    found, patient = run(order, workers=default_workers() if workers is None else workers, quiet=quiet)
    record = json.dumps(to_json(found, treated=prescribe), indent=1, allow_nan=False)
    study = study_text(order, patient, found) if prescribe else None
    made = {"diagnosis.json": record, "diagnosis.html": page(found, treated=prescribe), "study.yaml": study}
    for name, content in made.items():
        if content is not None:
            with atomic_path(out / name) as path:
                path.write_text(content, encoding="utf-8")
    if as_json:
        print(record)
    else:
        print(f"{text(found, treated=prescribe)}\n\nreport: {out / 'diagnosis.html'}")
        print(f"study: {out / 'study.yaml'}" if study else "", end="\n" if study else "")
    return found.exit_code
