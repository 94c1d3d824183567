"""Curves: metrics over the budget of an attack, and positions over time with the band in which they sway."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from holdfast.core.config import Study, Where
from holdfast.report import svg
from holdfast.report.figures import Drawn, new_figure
from holdfast.report.inputs import ReportInput, Show
from holdfast.select.stats import t_interval
from holdfast.select.table import Candidate, Table
from holdfast.select.verdict import Verdict
from holdfast.select.wording import amount, count, number

__all__ = ["adversarial_curves", "traces"]

Curve = dict[float, tuple[float, ...]]
"""Values by seed at each budget."""

MARKERS = "os^vDP*X"
"""One per candidate that the legend names: baseline and recommended come first, a long sweep is drawn unnamed."""


# --- under attack ---------------------------------------------------------------------------------------


def adversarial_curves(report: ReportInput, table: Table) -> list[Drawn]:
    """One figure per attack: the primary metric over the budget, one line per candidate."""
    metric = _attacked_metric(report) if report.verdict.axes else None
    budgets = _budgets(row.condition for row in table.rows if row.probe == "adversarial")
    if metric is None:
        return []
    drawn = [
        _attack_figure(report, table, metric, attack, eps, name=f"attack{i}")
        for i, (attack, eps) in enumerate(budgets.items())
    ]
    return [figure for figure in drawn if figure is not None]


def _attacked_metric(report: ReportInput) -> str | None:
    """The primary objective's metric where it was attacked, else the first metric that was."""
    attacked = list(dict.fromkeys(r.metric for r in report.rows if r.probe == "adversarial" and r.better != "neither"))
    primary = report.verdict.axes[report.verdict.primary].objective.metric
    return primary if primary in attacked else next(iter(attacked), None)


def _budgets(conditions: Iterator[str]) -> dict[str, dict[float, str]]:
    """Conditions such as ``fgsm eps=1`` by attack and budget."""
    found: dict[str, dict[float, str]] = {}
    for condition in conditions:
        if match := re.fullmatch(r"(\S+) eps=(\d+(?:\.\d+)?(?:e[-+]?\d+)?)", condition):
            found.setdefault(match[1], {})[float(match[2])] = condition
    return {attack: dict(sorted(eps.items())) for attack, eps in found.items()}


def _attack_figure(
    report: ReportInput, table: Table, metric: str, attack: str, budgets: Mapping[float, str], *, name: str
) -> Drawn | None:
    pipeline = report.study.preprocessing[0]
    asked = {e: Where(metric=metric, preprocessing=pipeline, probe="adversarial", condition=c)
             for e, c in budgets.items()}  # fmt: skip
    curves = {candidate: _curve(table, asked, candidate) for candidate in report.candidates}
    curves = {candidate: curve for candidate, curve in curves.items() if curve}
    row = next((found for where in asked.values() if (found := table.row_like(where, split="report"))), None)
    if not curves or row is None:
        return None
    with svg.style():
        figure = new_figure(4.6, 3.4)
        axes = figure.subplots()
        for order, (candidate, curve) in enumerate(curves.items()):
            marker = MARKERS[order] if order < len(MARKERS) else ""
            _attack_line(axes, report.verdict, candidate, curve, marker)
        axes.set_xlabel(f"{attack} budget, in units of the input")
        axes.set_ylabel(metric if row.unit in {"", "1"} else f"{metric} [{row.unit}]")
        axes.legend(frameon=False, fontsize=8)
        ends = (f"{c.name} {amount(float(np.mean(curve[max(curve)])), row.unit)}" for c, curve in curves.items())
        alt = f"{metric} under {attack}; at budget {max(budgets):g}: {'; '.join(ends)}"
        drawing = svg.inline(figure, name=name, alt=alt)
    return Drawn(svg=drawing, caption=f"{metric} under {attack}, {count(row.n, 'sample')} a seed")


def _curve(table: Table, asked: Mapping[float, Where], candidate: Candidate) -> Curve:
    values = {eps: table.values(where, candidate=candidate, split="report") for eps, where in asked.items()}
    return {eps: tuple(found.values()) for eps, found in values.items() if found}


def _attack_line(axes: Any, verdict: Verdict, candidate: Candidate, curve: Curve, marker: str) -> None:
    colour, line = (
        (svg.DEPLOYED, "-") if candidate == verdict.recommended
        else (svg.REFERENCE, "--") if candidate == verdict.baseline else (svg.FAINT, ":")
    )  # fmt: skip
    axes.plot(list(curve), [np.mean(v) for v in curve.values()], line, marker=marker, ms=5, color=colour,
              label=candidate.name if marker else "_others")  # fmt: skip
    if all(len(values) >= 3 for values in curve.values()):
        intervals = [t_interval(values) for values in curve.values()]
        low, high = [i.low for i in intervals], [i.high for i in intervals]
        axes.fill_between(list(curve), low, high, color=colour, alpha=0.15, lw=0)


# --- over time ------------------------------------------------------------------------------------------


def traces(report: ReportInput) -> list[Drawn]:
    """Each curve over the sequence, one panel per candidate, with the band in which the deployed line sways."""
    names = dict.fromkeys(name for show in report.shows for name in _trace_names(show))
    return [_trace_figure(report, name, number) for number, name in enumerate(names)]


def _trace_names(show: Show) -> list[str]:
    """Names of the curves that were deployed: ``deployed`` alone is the nameless one."""
    return [key.removeprefix("deployed").removeprefix(": ") for key in show.series if key.startswith("deployed")]


def _trace_figure(report: ReportInput, name: str, index: int) -> Drawn:
    there = [show for show in report.shows if _role(show, "deployed", name) is not None]
    with svg.style():
        figure = new_figure(8.4, 2.1 * len(there) + 0.4)
        panels = figure.subplots(len(there), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        said = [_trace_panel(axes, show, name, report.study) for axes, show in zip(panels, there, strict=True)]
        panels[-1].set_xlabel("frame")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), frameon=False, fontsize=9)
        title = name or "curve"
        drawing = svg.inline(figure, name=f"trace{index}", alt=f"{title} over one sequence; {'; '.join(said)}")
    return Drawn(svg=drawing, caption=f"{title} over one sequence")


def _trace_panel(axes: Any, show: Show, name: str, study: Study) -> str:
    truth, reference, deployed = (_role(show, role, name) for role in ("truth", "reference", "deployed"))
    assert deployed is not None
    who = Candidate(show.recipe, show.weights).name
    axes.set_title(who, loc="left", fontsize=10, fontweight="bold")
    frames, said = np.arange(len(deployed)), who
    if truth is not None and len(truth) == len(deployed):
        offset, sway = float(np.nanmean(deployed - truth)), float(np.nanstd(deployed - truth))
        axes.fill_between(frames, truth + offset - 2 * sway, truth + offset + 2 * sway, color=svg.DEPLOYED, alpha=0.15,
                          lw=0, label="sway band (±2 s.d. around the true motion)")  # fmt: skip
        axes.plot(frames, truth, color=svg.TRUTH, lw=2.4, label="truth")
        said += f": the deployed line sways around the true motion with a standard deviation of {number(sway)}"
    if reference is not None:
        axes.plot(reference, color=svg.REFERENCE, ls="--", label=f"under {study.preprocessing[0]}")
    axes.plot(frames, deployed, color=svg.DEPLOYED, label=f"under {study.deployed}")
    return said


def _role(show: Show, role: str, name: str) -> Any:
    series = show.series
    return series["truth"] if role == "truth" and "truth" in series else series.get(f"{role}: {name}" if name else role)
