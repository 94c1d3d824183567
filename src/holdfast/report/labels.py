"""Where to write the names of points so that they do not cover one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

__all__ = ["Label", "placed"]

LETTER_PT, LINE_PT = 5.6, 11.0
"""Rough size of a letter at nine points; exact widths are known to the browser alone."""


@dataclass(frozen=True)
class Label:
    """A name beside its point: ``offset`` in points, ``anchor`` the side of the text that is fixed."""

    text: str
    at: tuple[float, float]
    offset: tuple[float, float]
    anchor: str


def placed(axes: Any, points: Sequence[tuple[float, float]], names: Sequence[str]) -> list[Label]:
    """A label per point on the first free spot to its right or left; a point without a free spot gets none.

    Args:
        axes: matplotlib axes whose limits are final.
        points: data coordinates, the most important first.
        names: one per point.
    """
    axes.figure.draw_without_rendering()  # the layout moves the axes
    per_pt = axes.figure.dpi / 72
    spots = [tuple(axes.transData.transform(point) / per_pt) for point in points]
    left_edge, right_edge = axes.bbox.x0 / per_pt, axes.bbox.x1 / per_pt
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in spots]
    labels = []
    for point, (x, y), name in zip(points, spots, names, strict=True):
        width = LETTER_PT * len(name)
        for rise, side in product((8, -8, 19, -19, 30, -30), (1, -1)):
            left = x + 6 if side > 0 else x - 6 - width
            box = (left, y + rise - LINE_PT / 2, left + width, y + rise + LINE_PT / 2)
            if left_edge <= box[0] and box[2] <= right_edge and not any(_overlap(box, other) for other in taken):
                labels.append(Label(name, point, (6.0 * side, float(rise)), "left" if side > 0 else "right"))
                taken.append(box)
                break
    return labels


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
