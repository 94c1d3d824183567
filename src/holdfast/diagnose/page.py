"""A diagnosis as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from holdfast.core.flags import MEANING
from holdfast.diagnose.findings import Finding
from holdfast.diagnose.run import Diagnosis
from holdfast.diagnose.told import described, headline
from holdfast.report import svg
from holdfast.report.figures import Drawn, new_figure
from holdfast.select.wording import change, number

__all__ = ["page"]

CURVES = 6


def page(found: Diagnosis, *, treated: bool = True) -> str:
    """The page: what matters most, findings, treatments, curves, what became of each probe, provenance.

    It holds no weights and no images, and nothing outside of it is loaded.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    templates = Environment(
        loader=PackageLoader("holdfast.diagnose", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    templates.filters.update(short=number, drawn=Markup, described=described)
    templates.globals["change"] = change
    style = files("holdfast.report").joinpath("page.css").read_text(encoding="utf-8")
    flags = dict.fromkeys(flag for finding in found.findings for flag in finding.flags)
    return templates.get_template("page.html").render(
        found=found, headline=headline(found), style=style, curves=_curves(found.findings),
        treatments=found.treatments if treated else (),
        flags=[(flag, MEANING.get(flag, "not documented")) for flag in flags],
    )  # fmt: skip


def _curves(findings: Sequence[Finding]) -> list[Drawn]:
    """Damage over strength of the disturbances that cost most."""
    drawn = [finding for finding in findings if len(finding.curve) > 1]
    return [_curve(finding, i) for i, finding in enumerate(drawn[:CURVES])]


def _curve(finding: Finding, index: int) -> Drawn:
    strengths, damages = zip(*finding.curve, strict=True)
    unit = "" if finding.unit in ("", "1") else f" [{finding.unit}]"
    with svg.style():
        figure = new_figure(3.7, 2.6)
        axes = figure.subplots()
        axes.axhline(finding.tolerance, color=svg.FAINT, ls=":", label="tolerated")
        axes.plot(strengths, damages, "-o", ms=4, color=svg.DEPLOYED)
        axes.set_xlabel(f"{finding.name}: {finding.measure}")
        axes.set_ylabel(f"loss of {finding.metric}{unit}")
        axes.legend(frameon=False, fontsize=8)
        alt = f"loss of {finding.metric} under {finding.name}: " + ", ".join(
            f"{number(damage)} at {strength:g}" for strength, damage in finding.curve
        )
        drawing = svg.inline(figure, name=f"curve{index}", alt=alt)
    return Drawn(svg=drawing, caption=f"{finding.metric} under {finding.name} ({finding.probe}, n {finding.n})")
