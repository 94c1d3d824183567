"""Matplotlib figures as SVG that stands inside a page: no outside address, colours of the page's theme, alt text."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

__all__ = ["DEPLOYED", "FAINT", "INK", "REFERENCE", "TRUTH", "image_bytes", "inline", "style"]

INK, FAINT, TRUTH, REFERENCE, DEPLOYED = "#010101", "#020202", "#030303", "#040404", "#050505"
"""Stand-ins for colours of the page: a figure drawn once is right in the light and in the dark."""

THEME = {
    INK: "currentColor",
    FAINT: "var(--faint)",
    TRUTH: "var(--truth)",
    REFERENCE: "var(--reference)",
    DEPLOYED: "var(--deployed)",
}


@contextmanager
def style(*, ink: str = INK, size: float = 10) -> Iterator[None]:
    """Drawing settings: text stays text in a generic face, nothing is interpreted as mathematics, no box around."""
    import matplotlib

    settings = {
        "svg.fonttype": "none", "svg.hashsalt": "holdfast", "font.family": "sans-serif", "font.size": size,
        "text.parse_math": False, "axes.spines.top": False, "axes.spines.right": False, "figure.facecolor": "none",
        "axes.facecolor": "none", "savefig.facecolor": "none", "lines.linewidth": 1.6, "axes.linewidth": 0.8,
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), ink),
    }  # fmt: skip
    with matplotlib.rc_context(settings):
        yield


def image_bytes(figure: Any, form: str) -> bytes:
    """A figure as ``svg`` or ``png``; equal figures give equal bytes."""
    buffer = io.BytesIO()
    metadata = {"Date": None} if form == "svg" else {}
    figure.savefig(buffer, format=form, dpi=160, metadata=metadata)
    return buffer.getvalue()


def inline(figure: Any, *, name: str, alt: str) -> str:
    """A figure as an ``<svg>`` element for HTML.

    Args:
        figure: a matplotlib figure drawn within `style`.
        name: prefix of the ids, letters and digits, unique in the page.
        alt: what the figure shows, in words.
    """
    assert name.isalnum(), "the prefix goes into the markup as it is"
    text = image_bytes(figure, "svg").decode()
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    body = text[text.index("<svg") :]
    head, _, rest = body.partition(">")
    box = re.search(r'viewBox="([^"]+)"', head)
    assert box is not None, "matplotlib writes a viewBox"
    rest = _own_ids(rest, name).replace("xlink:href", "href")
    for stand_in, colour in THEME.items():
        rest = rest.replace(stand_in, colour)
    label = escape(alt, quote=True)
    return f'<svg class="figure" viewBox="{box[1]}" role="img" aria-label="{label}">{rest}'


def _own_ids(text: str, name: str) -> str:
    """Drop ids that nothing refers to and prefix the others, so that figures do not share any."""
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", text)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", text)
