"""The text of ``rows.jsonl``: rows, and after the rows of each cell a marker that makes them count."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.core.errors import InputError
from holdfast.core.plain import plain
from holdfast.core.rows import Row

__all__ = ["Settled", "encode", "parse"]


@dataclass(frozen=True, kw_only=True)
class Settled:
    """A cell with nothing left to do: its rows, or the reason why it has none.

    Args:
        rows: what was measured.
        facts: what was recorded beside the rows.
        reason: why the cell failed; None when it did not.
    """

    rows: tuple[Row, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None


def encode(cell: str, settled: Settled) -> bytes:
    """The lines of one settled cell: its rows, then ``{"commit": cell, ...}`` or ``{"failed": cell, ...}``."""
    marker: dict[str, Any] = {"commit": cell, "rows": len(settled.rows)}
    if settled.reason is not None:
        marker = {"failed": cell, "reason": settled.reason, "rows": len(settled.rows)}
    records = [*(row.to_json() for row in settled.rows), {**marker, "facts": settled.facts}]
    return "".join(json.dumps(plain(record), allow_nan=False) + "\n" for record in records).encode()


def parse(content: bytes, *, where: str) -> tuple[dict[str, Settled], int]:
    """The settled cells of a journal and the number of bytes they take; what follows is a torn end.

    A cell that was settled twice is what it was last.

    Args:
        content: the file.
        where: its name, for the error.

    Raises:
        InputError: a line before the last marker is no row, or a marker does not fit its rows: an edited file.
    """
    cells: dict[str, Settled] = {}
    pending: list[tuple[int, bytes]] = []
    end = position = 0
    for number, line in enumerate(content.splitlines(keepends=True), start=1):
        position += len(line)
        marker = _marker(line)
        if marker is None:
            pending.append((number, line))
            continue
        rows = tuple(_row(text, f"{where}, line {at}") for at, text in pending)
        cell = str(marker.get("commit", marker.get("failed")))
        if len(rows) != marker["rows"] or any(row.cell != cell for row in rows):
            raise InputError(
                f"the {len(rows)} rows above do not belong to cell {cell!r}", where=f"{where}, line {number}", fix=_FIX
            )
        cells.pop(cell, None)
        cells[cell] = Settled(rows=rows, facts=marker["facts"], reason=marker.get("reason"))
        pending, end = [], position
    return cells, end


_FIX = "restore the file, or start again in an empty folder"


def _marker(line: bytes) -> dict[str, Any] | None:
    if not line.startswith((b'{"commit"', b'{"failed"')) or not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if {"rows", "facts"} <= set(record) else None


def _row(line: bytes, where: str) -> Row:
    try:
        return Row.from_json(json.loads(line))
    except (ValueError, TypeError, AttributeError, InputError) as error:
        what = error.what if isinstance(error, InputError) else str(error)
        raise InputError(f"is no row: {what}", where=where, fix=_FIX) from None
