"""A verification as one self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined

from holdfast.verify.run import Verification
from holdfast.verify.told import Change, floor
from holdfast.verify.why import words

__all__ = ["page", "short"]


def page(found: Verification, moved: list[Change]) -> str:
    """The page: verdict first, then inputs, the two-factor table, comparisons, noise floor, provenance.

    It holds no weights and no images, and nothing outside of it is loaded.
    """
    templates = Environment(
        loader=PackageLoader("holdfast.verify", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    templates.filters |= {"short": short, "told": _told}
    style = files("holdfast.report").joinpath("page.css").read_text(encoding="utf-8")
    units = {finding.name: finding.unit for part in found.compared for finding in part.findings}
    template = templates.get_template("page.html")
    return template.render(
        found=found, moved=moved, style=style, units=units, metrics=_metrics, words=words, floor=floor
    )


def short(value: float) -> str:
    """Three digits; a dash where there is no number."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    return f"{value:.3g}"


def _told(value: object) -> str:
    return ", ".join(f"{name} {entry}" for name, entry in value.items()) if isinstance(value, Mapping) else str(value)


def _metrics(pipelines: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[str]:
    """Names of the metrics measured on a split."""
    first = next(iter(next(iter(pipelines.values())).values()))
    return list(first)
