"""The verdict, the two-factor tables and the gates as plain text, for a terminal or a log."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from holdfast.report.inputs import ReportInput
from holdfast.report.tables import Cell, TwoFactor, headline_metrics, two_factor
from holdfast.select.sentence import headline, remarks
from holdfast.select.table import Table
from holdfast.select.wording import count

__all__ = ["summary", "table_text"]

WIDTH = 100
TABLES = 4


def summary(report: ReportInput) -> str:
    """Verdict, two-factor tables (baseline and recommended candidate first), gates, failures."""
    table = Table(report.rows)
    blocks = ["\n".join(_wrap(headline(report.verdict))), *("\n".join(_wrap(line)) for line in remarks(report.verdict))]
    for metric in headline_metrics(report)[:1]:
        tables = (two_factor(report.study, table, candidate, metric) for candidate in report.candidates)
        texts = [table_text(found) for found in tables if found is not None]
        blocks += texts[:TABLES]
        blocks += [f"{count(len(texts) - TABLES, 'more table')} in the report."] if len(texts) > TABLES else []
    blocks += [_gates(report)] if report.gates else []
    blocks += ["\n".join(f"FAILED {name}: {reason}" for name, reason in report.failures.items())]
    return "\n\n".join(block for block in blocks if block) + "\n"


def table_text(found: TwoFactor) -> str:
    """One two-factor table; each cell is ``mean (ratio to the first cell)`` with its interval below.

    Two seeds are listed, three or more give a 95 % t interval.
    """
    rows: list[list[str]] = [["", *(column.backend for column in found.columns)]]
    rows.append(["", *(_executed(column.executed, column.asked) for column in found.columns)])
    for name, cells in found.lines:
        rows.append([name, *(_value(cell) for cell in cells)])
        if any(cell.detail for cell in cells):
            rows.append(["", *(cell.detail for cell in cells)])
    unit = "" if found.unit in {"", "1"} else f" [{found.unit}]"
    title = (
        f"{found.candidate.name}: {found.metric}{unit}, {count(found.seeds, 'seed')}, {count(found.groups, 'group')}"
    )
    return "\n".join([title, *_aligned(rows)])


def _value(cell: Cell) -> str:
    return f"{cell.text} ({cell.factor})" if cell.factor else cell.text


def _executed(executed: str, asked: str) -> str:
    return executed if executed.startswith(asked) else f"{executed}, not {asked}"


def _gates(report: ReportInput) -> str:
    lines = []
    for result in report.gates:
        who = result.candidate.name if result.candidate else "nothing recommended"
        lines += [f"{result.outcome:<12}  {result.gate.name} ({who})", *_wrap(result.reason, indent=14)]
    return "\n".join(lines)


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()


def _wrap(text: str, indent: int = 0) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=" " * indent, subsequent_indent=" " * indent)
