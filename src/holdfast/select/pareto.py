"""Pareto dominance, the front, and the hypervolume below it; every axis is minimised."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from holdfast.core.errors import InputError

__all__ = ["dominates", "front", "hypervolume", "to_minimise"]


def to_minimise(values: float, better: str) -> float:
    """``values`` with the sign that makes smaller better.

    Raises:
        InputError: a direction other than ``lower`` or ``higher``; what is only to be seen is never ranked.
    """
    if better not in {"lower", "higher"}:
        raise InputError(f"better={better!r} cannot be ranked", where="pareto", fix="use a metric with a direction")
    return values if better == "lower" else -values


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether ``a`` is nowhere worse than ``b`` and somewhere better; a point with NaN dominates nothing."""
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def front(points: ArrayLike) -> list[int]:
    """Indices of the points that no other point dominates, in order; equal points stay together, NaN is left out.

    Args:
        points: float (n, k), smaller is better on every axis.
    """
    table = _table(points)
    known = [i for i in range(len(table)) if not np.isnan(table[i]).any()]
    return [i for i in known if not any(dominates(table[j].tolist(), table[i].tolist()) for j in known)]


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """Volume dominated by ``points`` and bounded by ``reference``, for two or three axes.

    Points beyond the reference on any axis count nothing.

    Args:
        points: float (n, k), k = 2 or 3, smaller is better.
        reference: float (k,), a point worse than those of interest on every axis.

    Raises:
        InputError: another number of axes.
    """
    table, corner = _table(points), np.asarray(reference, dtype=np.float64)
    if table.shape[1] not in {2, 3} or corner.shape != (table.shape[1],):
        raise InputError(f"{table.shape} points, reference {corner.shape}", where="hypervolume", fix="give 2 or 3 axes")
    inside = table[(table < corner).all(axis=1)]
    return _area(inside, corner) if len(corner) == 2 else _volume(inside, corner)


def _area(points: NDArray[np.float64], corner: NDArray[np.float64]) -> float:
    """Sum of the rectangles of a staircase, from left to right."""
    total, ceiling = 0.0, float(corner[1])
    for x, y in sorted(map(tuple, points.tolist())):
        if y < ceiling:
            total += (float(corner[0]) - x) * (ceiling - y)
            ceiling = y
    return total


def _volume(points: NDArray[np.float64], corner: NDArray[np.float64]) -> float:
    """Slices along the third axis, each with the area dominated by the points below it."""
    heights = sorted({*points[:, 2].tolist(), float(corner[2])})
    slices = pairwise(heights)
    return sum((_area(points[points[:, 2] <= low][:, :2], corner[:2]) * (high - low) for low, high in slices), 0.0)


def _table(points: ArrayLike) -> NDArray[np.float64]:
    table = np.asarray(points, dtype=np.float64)
    if table.ndim != 2:
        raise InputError(f"points of shape {table.shape}", where="pareto", fix="give (points, axes)")
    return table
