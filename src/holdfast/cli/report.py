"""``holdfast report``: the report of a run folder, written again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.studies import show, use_data

__all__ = ["report"]


def report(
    run_folder: Annotated[Path, typer.Argument(help="A folder that `holdfast run` made, also while it runs.")],
    base: Annotated[Path | None, typer.Option(help="Where the task file is, if it was moved since.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the data sets; default: $HOLDFAST_DATA.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> int:
    """Judge and report once more what a run folder holds; nothing is trained or measured.

    Exit code: as of `holdfast run`.
    """
    use_data(data)
    from holdfast.study.run import report_again

    outcome = report_again(run_folder, base=base)
    show(outcome, as_json=as_json)
    return int(outcome.exit_code)
