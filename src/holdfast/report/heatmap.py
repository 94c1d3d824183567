"""The two-factor table as an image of its own, for a README or a slide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from holdfast.core.errors import InputError
from holdfast.report import svg
from holdfast.report.tables import Cell, Column, TwoFactor
from holdfast.select.wording import count

__all__ = ["two_factor_image"]

INK, PALE, NEUTRAL = "#1a1a1a", "#5f5f5f", (0.95, 0.955, 0.96)
WORSE, BETTER = (0.90, 0.62, 0.0), (0.34, 0.71, 0.91)
"""Orange and sky blue of Okabe and Ito: told apart with any kind of colour vision."""

NAME_IN, CELL_IN, LINE_IN, HEAD_IN, TITLE_IN = 1.25, 1.55, 0.62, 0.52, 0.62


def two_factor_image(tables: Sequence[TwoFactor], *, form: str = "svg") -> bytes:
    """Tables below one another on white, as ``svg`` or ``png`` bytes.

    Args:
        tables: e.g. that of the baseline and that of the recommended recipe, of one study.
        form: ``svg`` or ``png``.

    Raises:
        InputError: no tables, or another form.
    """
    if not tables or form not in {"svg", "png"}:
        raise InputError(f"{len(tables)} tables as {form!r}", where="two_factor_image", fix="give tables, svg or png")
    from matplotlib.figure import Figure

    columns = max(len(table.columns) for table in tables)
    width, heights = NAME_IN + CELL_IN * columns + 0.1, [_height(table) for table in tables]
    with svg.style(ink=INK):
        figure = Figure(figsize=(width, sum(heights)), facecolor="white")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, width), ylim=(0, sum(heights)))
        axes.axis("off")
        top = sum(heights)
        for table, height in zip(tables, heights, strict=True):
            _draw(axes, table, top)
            top -= height
        return svg.image_bytes(figure, form)


def _height(table: TwoFactor) -> float:
    return TITLE_IN + HEAD_IN + LINE_IN * len(table.lines)


def _draw(axes: Any, table: TwoFactor, top: float) -> None:
    unit = "" if table.unit in {"", "1"} else f" [{table.unit}]"
    axes.text(0.1, top - 0.3, table.candidate.name, weight="bold", va="center")
    behind = f"{table.metric}{unit}, {count(table.seeds, 'seed')}, {count(table.groups, 'group')} of samples"
    axes.text(NAME_IN + 0.06, top - 0.3, behind, color=PALE, size=9, va="center")
    top -= TITLE_IN
    for i, column in enumerate(table.columns):
        _head(axes, column, NAME_IN + CELL_IN * (i + 0.5), top)
    top -= HEAD_IN
    for name, cells in table.lines:
        axes.text(0.1, top - LINE_IN / 2, name, va="center")
        for i, cell in enumerate(cells):
            _cell(axes, cell, NAME_IN + CELL_IN * i, top)
        top -= LINE_IN


def _head(axes: Any, column: Column, x: float, top: float) -> None:
    axes.text(x, top - 0.08, column.backend, ha="center", va="center", size=9)
    executed = f"{column.executed}, not {column.asked}" if column.differs else column.executed
    axes.text(x, top - 0.28, executed, ha="center", va="center", size=9, weight="bold")


def _cell(axes: Any, cell: Cell, left: float, top: float) -> None:
    from matplotlib.patches import Rectangle

    box = (left + 0.03, top - LINE_IN + 0.03)
    axes.add_patch(Rectangle(box, CELL_IN - 0.06, LINE_IN - 0.06, facecolor=_tint(cell.worse), lw=0))
    middle = left + CELL_IN / 2
    text = f"{cell.text}  {cell.factor}" if cell.factor else cell.text
    axes.text(middle, top - LINE_IN / 2 + (0.1 if cell.detail else 0), text, ha="center", va="center", weight="bold")
    axes.text(middle, top - LINE_IN / 2 - 0.13, cell.detail, ha="center", va="center", size=7.5, color=PALE)


def _tint(worse: float) -> tuple[float, ...]:
    if abs(worse) < 0.01:
        return NEUTRAL
    target, share = WORSE if worse > 0 else BETTER, 0.08 + 0.82 * abs(worse)
    return tuple(1 - share * (1 - channel) for channel in target)
