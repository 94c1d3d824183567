"""``holdfast run``: a study from its file to its report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.studies import default_workers, find_study, run_and_show, use_data

__all__ = ["run"]


def run(
    study: Annotated[str, typer.Argument(help="A study file, or the name of a shipped study.")],
    out: Annotated[Path | None, typer.Option(help="Run folder; default: runs/<name of the study>.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the data sets; default: $HOLDFAST_DATA.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes; default: one a core.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> int:
    """Run a study: train, measure, select, check the gates, report. Interrupted, the same command goes on.

    Exit code: 0 all gates passed, 1 a gate failed, 2 bad input, 3 inconclusive.
    """
    use_data(data)
    path = find_study(study)
    return run_and_show(path, out=out, workers=workers or default_workers(), quiet=quiet, as_json=as_json).exit_code
