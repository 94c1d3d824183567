"""Slow readable twins of `holdfast.tasks.edges`: one profile at a time, one pixel at a time."""

from __future__ import annotations

import math


def edges(profile: list[float]) -> list[float]:
    found = []
    for i in range(len(profile) - 1):
        a, b = profile[i], profile[i + 1]
        if (a < 0.5 <= b) or (b < 0.5 <= a):
            found.append(i + (a - 0.5) / (a - b))
    return found


def shift(reference: list[float], other: list[float]) -> float:
    x, y = edges(reference), edges(other)
    if len(x) != len(y) or not x:
        return math.nan
    return sum(abs(a - b) for a, b in zip(x, y, strict=True)) / len(x)
