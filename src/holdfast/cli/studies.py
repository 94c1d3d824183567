"""What the commands that run a study share: finding it, running it, and saying what came out."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import holdfast
from holdfast.core.errors import InputError, nearest

if TYPE_CHECKING:
    from holdfast.study.run import Outcome

__all__ = ["default_workers", "find_study", "run_and_show", "show", "use_data"]

SHIPPED = Path(holdfast.__file__).parent / "studies"


def find_study(study: str) -> Path:
    """The file of a study: a path, or the name of a shipped one.

    Raises:
        InputError: neither; names the nearest shipped one.
    """
    shipped = {path.stem: path for path in SHIPPED.glob("*.yaml")}
    if not Path(study).is_file() and study not in shipped:
        raise InputError("no such study file, nor a shipped study", where=study, fix=nearest(study, shipped))
    return Path(study) if Path(study).is_file() else shipped[study]


def use_data(folder: Path | None) -> None:
    """Let tasks find their data below ``folder``, here and in worker processes.

    Raises:
        InputError: it is no folder.
    """
    if folder is not None:
        if not folder.is_dir():
            raise InputError(
                "no such folder", where=str(folder), fix="--data takes the folder that holds the data sets"
            )
        os.environ["HOLDFAST_DATA"] = str(folder.resolve())


def default_workers() -> int:
    """One single-thread worker for every core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_and_show(path: Path, *, out: Path | None, workers: int, quiet: bool, as_json: bool) -> Outcome:
    """Run a study and print what came out.

    Args:
        path: the study file.
        out: run folder; None: ``runs/<name of the study>``.
        workers: worker processes.
        quiet: no progress.
        as_json: print one JSON object instead of text.
    """
    from holdfast.core.config import load_study

    study = load_study(path)
    # Heavy, and not needed to find out that a study file is wrong.
    from holdfast.study.run import run_study

    outcome = run_study(study, base=path.parent, out=out or Path("runs") / study.name, workers=workers, quiet=quiet)
    show(outcome, as_json=as_json)
    return outcome


def show(outcome: Outcome, *, as_json: bool) -> None:
    """Print what a study found: text, or one JSON object with the verdict and the gates."""
    if as_json:
        from holdfast.core.plain import plain

        print(json.dumps(plain(outcome), allow_nan=False))
    else:
        print(f"{outcome.table.rstrip()}\n\nreport: {outcome.report}")
