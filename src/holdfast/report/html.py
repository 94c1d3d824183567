"""The report: one self-contained HTML page, verdict first, for a screen, a phone and a printer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from holdfast.core.flags import MEANING
from holdfast.report.curves import adversarial_curves, traces
from holdfast.report.figures import pareto
from holdfast.report.frames import worst_frames
from holdfast.report.inputs import ReportInput
from holdfast.report.tables import TwoFactor, flagged, headline_metrics, other_metrics, two_factor
from holdfast.select.sentence import headline, remarks
from holdfast.select.stats import Interval
from holdfast.select.table import Table
from holdfast.select.wording import amount, ends, number, p_value, roughly

__all__ = ["render"]


def render(report: ReportInput) -> str:
    """The page as text; sections without content are left out. Nothing in it points outside the page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("holdfast.report", ""), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=StrictUndefined,
    )  # fmt: skip
    environment.filters.update(tied=_tied, number=number, scored=_scored, p=p_value, roughly=roughly, drawn=Markup)
    environment.globals["amount"] = amount
    return environment.get_template("page.html").render(
        report=report, study=report.study, verdict=report.verdict, headline=headline(report.verdict),
        remarks=remarks(report.verdict), gates=report.gates, style=_style(), **_sections(report),
    )  # fmt: skip


def _sections(report: ReportInput) -> dict[str, Any]:
    table = Table(report.rows)
    return {
        "two_factor": [(metric, _tables(report, table, metric)) for metric in headline_metrics(report)],
        "frames": worst_frames(report),
        "traces": traces(report),
        "pareto": pareto(report.verdict),
        "attacks": adversarial_curves(report, table),
        "others": other_metrics(report, table),
        "flags": [(flag, MEANING.get(flag, "not documented"), places) for flag, places in flagged(report).items()],
        "provenance": _environments(report.provenance),
    }


def _tables(report: ReportInput, table: Table, metric: str) -> list[TwoFactor]:
    found = (two_factor(report.study, table, candidate, metric) for candidate in report.candidates)
    return [one for one in found if one is not None]


def _scored(interval: Interval | None) -> tuple[str, str]:
    """Mean and, from three seeds on, its interval."""
    if interval is None:
        return "–", ""
    return number(interval.estimate), ends(interval) if interval.n >= 3 and interval.low < interval.high else ""


def _tied(sentence: str) -> str:
    """A sentence whose numbers do not break from their signs at the end of a line."""
    for words in (" %", "p = ", "p < "):
        sentence = sentence.replace(words, words.replace(" ", "\u00a0"))
    return sentence


def _style() -> str:
    from importlib.resources import files

    return files("holdfast.report").joinpath("page.css").read_text(encoding="utf-8")


def _environments(provenance: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """One list of facts, or one per environment where every value is a mapping."""
    if provenance and all(isinstance(value, Mapping) for value in provenance.values()):
        return [(key, list(_flat(value))) for key, value in provenance.items()]
    return [("", list(_flat(provenance)))] if provenance else []


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested plain values as dotted names."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
