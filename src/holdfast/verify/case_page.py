"""Cases as one self-contained HTML page, as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from holdfast.core.contracts import Picture
from holdfast.core.plain import plain
from holdfast.report import svg
from holdfast.report.figures import Drawn, new_figure
from holdfast.report.frames import Frame, frame
from holdfast.verify.cases import Case, Cases, Curve
from holdfast.verify.page import short

__all__ = ["page", "text", "to_json"]

WORST = 3
"""Cases whose curves are drawn."""


def to_json(found: Cases) -> dict[str, Any]:
    """Everything but curves and pictures, in the types of JSON."""
    cases = [
        {"clip": case.clip, "frames": case.frames, "subject": case.subject, "pipeline": case.pipeline,
         "change": case.change, "symptoms": plain(case.symptoms), "moved": plain(case.moved)}
        for case in found.cases
    ]  # fmt: skip
    return {
        "format": "holdfast cases 1", "task": found.task, "reference": found.reference, "weights": plain(found.weights),
        "cases": cases, "environment": plain(found.environment),
    }  # fmt: skip


def text(found: Cases) -> str:
    """The comparison in words, for a terminal."""
    counts = {change: sum(case.change == change for case in found.cases) for change in ("broken", "fixed", "unchanged")}
    lines = [f"{', '.join(f'{n} {change}' for change, n in counts.items())} of {len(found.cases)} cases",
             f"compared with {found.reference}"]  # fmt: skip
    lines += [f"weights, {role}: {about['file']}, key {about['key']}" for role, about in found.weights.items()]
    for case in found.cases:
        lines += ["", f"{case.change}: {case.clip} ({case.frames} frames), {case.subject} under {case.pipeline}"]
        lines += [f"  {s.name}: {s.before:.3g} -> {s.after:.3g}{_unit(s.unit)}, {s.change}" for s in case.symptoms]
        moved = [f"{name} {value:.3g}" for name, value in case.moved.items()]
        lines += [f"  moved from the reference: {', '.join(moved)}"] if moved else []
    return "\n".join(lines)


def _unit(unit: str) -> str:
    return "" if unit == "1" else f" {unit}"


def page(found: Cases) -> str:
    """The page: how many cases changed, the table, then curves (and pictures, if there are any) of the worst."""
    templates = Environment(
        loader=PackageLoader("holdfast.verify", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    templates.filters["short"] = short
    style = files("holdfast.report").joinpath("page.css").read_text(encoding="utf-8")
    return templates.get_template("cases.html").render(found=found, style=style, shown=list(_shown(found)))


def _shown(found: Cases) -> Iterator[tuple[Case, list[Drawn], Frame | None]]:
    for number, case in enumerate(found.cases[:WORST]):
        drawn = [_figure(curve, f"case{number}curve{i}") for i, curve in enumerate(case.curves)]
        yield case, drawn, _frame(case) if case.picture is not None else None


def _figure(curve: Curve, name: str) -> Drawn:
    with svg.style():
        figure = new_figure(8.4, 2.3)
        axes = figure.subplots()
        axes.plot(curve.before, color=svg.REFERENCE, ls="--", label="in use")
        axes.plot(curve.after, color=svg.DEPLOYED, label="new")
        axes.set_xlabel("frame")
        axes.set_ylabel(curve.name)
        axes.legend(frameon=False, fontsize=9, ncols=2)
        apart = float(np.abs(curve.after - curve.before).mean())
        alt = f"{curve.name} over the clip; the two are {apart:.3g} apart on average"
        return Drawn(svg=svg.inline(figure, name=name, alt=alt), caption=f"{curve.name} over the clip")


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """What `holdfast.report.frames.frame` asks for."""

    recipe: str
    weights: str = "last"
    pictures: tuple[Picture, ...] = ()
    series: Mapping[str, np.ndarray] = field(default_factory=dict)


def _frame(case: Case) -> Frame:
    assert case.picture is not None
    return frame(case.picture, _Shown(recipe=f"{case.clip}, {case.subject}"))
