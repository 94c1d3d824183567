"""``holdfast demo``: the whole loop on a synthetic road, in minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.studies import default_workers, find_study, run_and_show

__all__ = ["demo"]


def demo(
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/demo"),
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes; default: one a core.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Train a lane net three ways, and see which one survives the way into the vehicle.

    Its verdicts are printed; the exit code is 0 when it ran.
    """
    run_and_show(find_study("demo"), out=out, workers=workers or default_workers(), quiet=quiet, as_json=as_json)
