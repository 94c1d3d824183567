"""Trade-offs between the objectives, drawn."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Any

from holdfast.report import svg
from holdfast.report.labels import placed
from holdfast.select.verdict import Axis, Standing, Verdict
from holdfast.select.wording import amount

__all__ = ["Drawn", "new_figure", "pareto"]

WIDE_LETTERS, TALL_LETTERS = 44, 36
"""As much of a label as fits along the horizontal and the vertical axis."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A figure for the page: the ``<svg>`` element and a caption."""

    svg: str
    caption: str


def new_figure(width_in: float, height_in: float) -> Any:
    """An empty matplotlib figure whose parts make room for one another."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), layout="constrained")


def pareto(verdict: Verdict) -> list[Drawn]:
    """The primary objective against each other one: means with intervals, single seeds as dots."""
    primary = verdict.primary
    others = [i for i, axis in enumerate(verdict.axes) if i != primary and axis.better != "neither"]
    return [_trade_off(verdict, i) for i in others]


def _trade_off(verdict: Verdict, index: int) -> Drawn:
    x_axis, y_axis = verdict.axes[index], verdict.axes[verdict.primary]
    first = (verdict.recommended, verdict.baseline)
    shown = sorted((s for s in verdict.standings if s.select[index]), key=lambda s: s.candidate not in first)
    with svg.style():
        figure = new_figure(3.7, 3.2)
        axes = figure.subplots()
        axes.margins(0.18)
        for standing in shown:
            _point(axes, standing, index, verdict)
        axes.set_xlabel(_axis_label(x_axis, WIDE_LETTERS))
        axes.set_ylabel(_axis_label(y_axis, TALL_LETTERS))
        points = [(_mean(s, index), _mean(s, verdict.primary)) for s in shown]
        for label in placed(axes, points, [s.candidate.name for s in shown]):
            bold = label.text in {candidate.name for candidate in first if candidate}
            axes.annotate(label.text, label.at, xytext=label.offset, textcoords="offset points", ha=label.anchor,
                          va="center", weight="bold" if bold else "normal", size=9, in_layout=False)  # fmt: skip
        alt = f"{y_axis.label} against {x_axis.label}: " + "; ".join(
            f"{s.candidate.name} {amount(y, y_axis.unit)} at {amount(x, x_axis.unit)}"
            for s, (x, y) in zip(shown, points, strict=True)
        )
        drawing = svg.inline(figure, name=f"pareto{index}", alt=alt)
    return Drawn(svg=drawing, caption=f"{y_axis.label} against {x_axis.label}")


def _point(axes: Any, standing: Standing, index: int, verdict: Verdict) -> None:
    primary = verdict.primary
    colour = svg.DEPLOYED if standing.candidate == verdict.recommended else (
        svg.REFERENCE if standing.candidate == verdict.baseline else svg.FAINT
    )  # fmt: skip
    seeds = standing.by_seed[index].keys() & standing.by_seed[primary].keys()
    for seed in sorted(seeds):
        axes.plot(standing.by_seed[index][seed], standing.by_seed[primary][seed], ".", color=colour, alpha=0.5, ms=4)
    x, y = standing.select[index], standing.select[primary]
    assert x is not None
    assert y is not None
    reach = {}
    if x.n >= 3 and y.n >= 3:
        reach = {"xerr": (x.high - x.low) / 2, "yerr": (y.high - y.low) / 2}
    axes.errorbar(x.estimate, y.estimate, **reach, fmt="o", ms=8, color=colour, elinewidth=1,
                  mfc=colour if standing.on_front else "none")  # fmt: skip


def _mean(standing: Standing, index: int) -> float:
    interval = standing.select[index]
    assert interval is not None
    return interval.estimate


def _axis_label(axis: Axis, letters: int) -> str:
    unit = "" if axis.unit in {"", "1"} else f" [{axis.unit}]"
    text = f"{axis.label}{unit}, {'less' if axis.better == 'lower' else 'more'} is better"
    return textwrap.fill(text, letters)
