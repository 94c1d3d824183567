"""A verification as one self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined

from holdfast.verify.run import Verification
from holdfast.verify.told import Change

__all__ = ["page"]


def page(found: Verification, moved: list[Change]) -> str:
    """The page: verdict first, then inputs, the two-factor table, comparisons, noise floor, provenance.

    It holds no weights and no images, and nothing outside of it is loaded.
    """
    templates = Environment(
        loader=PackageLoader("holdfast.verify", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    templates.filters["short"] = _short
    style = files("holdfast.report").joinpath("page.css").read_text(encoding="utf-8")
    return templates.get_template("page.html").render(found=found, moved=moved, style=style, metrics=_metrics)


def _short(value: float) -> str:
    if not math.isfinite(value):
        return "–" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    return f"{value:.3g}"


def _metrics(pipelines: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[str]:
    """Names of the metrics measured on a split."""
    first = next(iter(next(iter(pipelines.values())).values()))
    return list(first)
