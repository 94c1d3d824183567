"""From rows to an answer: select, check the gates, draw what is worth drawing, write the report."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from holdfast.core.rows import Row
from holdfast.core.store import RunFolder
from holdfast.report.html import render
from holdfast.report.inputs import ReportInput
from holdfast.report.text import summary
from holdfast.select.gates import GateResult, check_gates, exit_code
from holdfast.select.table import Candidate
from holdfast.select.verdict import Verdict, judge
from holdfast.study.jobs import Context
from holdfast.study.plan import Plan, TrainCell
from holdfast.study.showcase import Showcase

__all__ = ["Outcome", "Shows", "conclude"]

Shows = Callable[[Sequence[tuple[TrainCell, str]], Sequence[int]], list[Showcase]]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a study found.

    Args:
        exit_code: 0 every gate passed (or none was set), 1 one failed, 3 inconclusive.
        table: the headline table, the verdict and the gates as text.
        report: the HTML file.
        verdict: the selection.
        gates: the gates.
    """

    exit_code: int
    table: str
    report: Path
    verdict: Verdict
    gates: tuple[GateResult, ...]


def conclude(context: Context, folder: RunFolder, *, show: Shows) -> Outcome:
    """Judge the rows of a plan and write ``report.html`` and ``rows.csv``.

    Args:
        context: the study; only rows of its cells count.
        folder: the run folder.
        show: draws trainings, see `holdfast.study.run`; those whose weights are gone are left out.
    """
    study, plan = context.study, context.plan
    rows = folder.rows(plan.names())
    verdict = judge(study, rows)
    gates = check_gates(study, rows, verdict, folder.samples)
    names = plan.names()
    report = ReportInput(
        study=study,
        rows=tuple(rows),
        verdict=verdict,
        gates=gates,
        shows=tuple(_showcases(plan, verdict, show)),
        failures={names[key]: reason for key, reason in folder.failures().items() if key in names},
        stale_count=len(folder.rows()) - len(rows),
        provenance=_environments(folder),
    )
    folder.put_text("rows.csv", _csv(rows))
    return Outcome(
        exit_code=exit_code(gates),
        table=summary(report),
        report=folder.put_text("report.html", render(report)),
        verdict=verdict,
        gates=gates,
    )


def _showcases(plan: Plan, verdict: Verdict, show: Shows) -> list[Showcase]:
    """Baseline and recommended candidate under the first seeds, on the frames that are worst for the baseline."""
    wanted = [c for c in (verdict.baseline, verdict.recommended) if c is not None]
    cells = [(found, c.weights) for c in dict.fromkeys(wanted) if (found := _first_training(plan, c)) is not None]
    if not cells:
        return []
    before = show(cells[:1], ())
    return before + (show(cells[1:], before[0].frames) if before and cells[1:] else [])


def _first_training(plan: Plan, candidate: Candidate) -> TrainCell | None:
    return next((cell for cell in plan.trainings if cell.recipe == candidate.recipe), None)


def _environments(folder: RunFolder) -> dict[str, dict[str, Any]]:
    """The environments that made the rows, by the key that rows refer to."""
    files = sorted(folder.path("provenance").glob("*.json"))
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(Row))
    writer.writerows([_plain(getattr(row, field.name)) for field in fields(Row)] for row in rows)
    return text.getvalue()


def _plain(value: object) -> object:
    return " ".join(value) if isinstance(value, tuple) else value
