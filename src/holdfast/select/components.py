"""Components of variance of a balanced experiment: how much of the spread is the seed, the order, the method?"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from holdfast.core.errors import InputError
from holdfast.select.stats import Interval, finite

__all__ = ["Component", "variance_components"]

Floats = NDArray[np.float64]
RESIDUAL = "residual"


@dataclass(frozen=True, kw_only=True)
class Component:
    """One source of variance.

    Args:
        name: the factor, or ``residual``: every interaction, and what nothing explains.
        variance: in the unit of the values squared; an estimate below zero stands as zero.
        share: of the sum of all estimates.
        dof: degrees of freedom behind it.
    """

    name: str
    variance: Interval
    share: float
    dof: int

    @property
    def deviation(self) -> Interval:
        """Its square root, in the unit of the values."""
        v = self.variance
        return Interval(estimate=math.sqrt(v.estimate), low=math.sqrt(v.low), high=math.sqrt(v.high), n=v.n,
                        confidence=v.confidence, method=v.method)  # fmt: skip


@dataclass(frozen=True)
class _Square:
    """A mean square, its degrees of freedom, and how many values stand behind each level."""

    mean: float
    dof: int
    each: float


def variance_components(
    values: ArrayLike,
    factors: Mapping[str, Sequence[Hashable]],
    *,
    nested: Mapping[str, str] | None = None,
    confidence: float = 0.95,
) -> tuple[Component, ...]:
    """Variance of each factor's effects, all taken as random, from the mean squares of a balanced experiment.

    Equations: for a crossed factor of ``a`` levels among ``N`` values, ``s^2 = (MS_a - MS_residual) / (N / a)``; a
    factor in which another is nested is compared with that one's mean square instead. Intervals are those of Ting et
    al. for a difference of mean squares, chi-squared for the residual. Two levels bound hardly anything.

    Args:
        values: float (N,), finite.
        factors: name -> level of each value, (N,). Effects are added; interactions are part of the residual.
        nested: name of a factor -> name of the factor inside which its levels are others each time, e.g.
            ``{"init seed": "law"}``: seed 3 of one law has nothing in common with seed 3 of another.
        confidence: two-sided coverage aimed at. Default 0.95.

    Returns:
        One component a factor in their order, then the residual.

    Raises:
        InputError: values that are not finite, a factor of one level or of another length, a design that is not
            balanced, nothing left for the residual.

    Sources: Searle, Casella and McCulloch, *Variance Components*, 1992, chapter 4; Ting, Burdick, Graybill, Jeyaratnam
    and Lu, "Confidence intervals on linear combinations of variance components that are unrestricted in sign", 1990.
    """
    x, inside = finite(values, "variance_components"), dict(nested or {})
    codes = _codes(len(x), factors, inside)
    squares = {name: _square(x, codes, name, inside.get(name)) for name in factors}
    dof = len(x) - 1 - sum(square.dof for square in squares.values())
    if dof < 1:
        raise InputError("no degree of freedom is left for the residual", where="variance_components",
                         fix="measure more, or name fewer factors")  # fmt: skip
    explained = sum(square.mean * square.dof for square in squares.values())
    rest = _Square(max(0.0, float(((x - x.mean()) ** 2).sum()) - explained) / dof, dof, 1.0)
    outer = {holder: name for name, holder in inside.items()}
    found = {name: _difference(square, squares[outer[name]] if name in outer else rest, confidence)
             for name, square in squares.items()}  # fmt: skip
    found[RESIDUAL] = _alone(rest, confidence)
    total = sum(interval.estimate for interval in found.values())
    return tuple(
        Component(name=name, variance=interval, share=interval.estimate / total if total else 0.0,
                  dof=squares[name].dof if name in squares else dof)
        for name, interval in found.items()
    )  # fmt: skip


def _codes(
    n: int, factors: Mapping[str, Sequence[Hashable]], nested: Mapping[str, str]
) -> dict[str, NDArray[np.int64]]:
    """Number of each value's level by factor; those of a nested factor differ from holder to holder."""
    if wrong := [name for pair in nested.items() for name in pair if name not in factors]:
        raise InputError(f"no factor {wrong[0]!r}", where="variance_components", fix=f"one of {sorted(factors)}")
    found = {}
    for name, levels in factors.items():
        if len(levels) != n:
            raise InputError(f"factor {name!r} has {len(levels)} levels for {n} values", where="variance_components")
        keys = list(zip(factors[nested[name]], levels, strict=True)) if name in nested else list(levels)
        numbers = {key: i for i, key in enumerate(dict.fromkeys(keys))}
        found[name] = np.array([numbers[key] for key in keys])
    crossed = [name for name in factors if name not in nested.values()]
    counts = np.unique(np.column_stack([found[name] for name in crossed]), axis=0, return_counts=True)[1]
    cells = math.prod(len(np.unique(found[name])) for name in crossed)
    if len(counts) != cells or len(set(counts.tolist())) > 1 or any(codes.max() == 0 for codes in found.values()):
        raise InputError(f"{n} values do not fill {cells} combinations of {crossed} equally, or a factor has one level",
                         where="variance_components", fix="leave out what is not measured everywhere")  # fmt: skip
    return found


def _square(x: Floats, codes: Mapping[str, NDArray[np.int64]], name: str, holder: str | None) -> _Square:
    mine = _level_means(x, codes[name])
    centre = _level_means(x, codes[holder]) if holder else np.full(len(x), x.mean())
    levels = int(codes[name].max()) + 1
    dof = levels - (int(codes[holder].max()) + 1 if holder else 1)
    return _Square(float(((mine - centre) ** 2).sum()) / dof, dof, len(x) / levels)


def _level_means(x: Floats, codes: NDArray[np.int64]) -> Floats:
    """For each value the mean of its level."""
    means: Floats = np.bincount(codes, weights=x) / np.bincount(codes)
    return means[codes]


# --- intervals ------------------------------------------------------------------------------------------


def _difference(large: _Square, small: _Square, confidence: float) -> Interval:
    """``(large - small) / each`` with the limits of Ting et al., cut off at zero."""
    tail = (1 - confidence) / 2
    a, b = large.mean / large.each, small.mean / large.each
    down, up = (_half(large.dof, small.dof, a, b, p) for p in (1 - tail, tail))
    return Interval(
        estimate=max(0.0, a - b), low=max(0.0, a - b - down), high=max(0.0, a - b + up), n=large.dof + 1,
        confidence=confidence, method=f"Ting et al. with {large.dof} and {small.dof} degrees of freedom",
    )  # fmt: skip


def _half(first: int, second: int, a: float, b: float, p: float) -> float:
    """Distance of a limit; ``p`` above one half for the lower limit, below it for the upper one."""
    from scipy.special import fdtri

    f = float(fdtri(first, second, p))
    g, h = 1 - 1 / _over_dof(first, p), 1 / _over_dof(second, 1 - p) - 1
    mixed = ((f - 1) ** 2 - (g * f) ** 2 - h**2) / f
    return math.sqrt(max(0.0, (g * a) ** 2 + (h * b) ** 2 + mixed * a * b))


def _alone(square: _Square, confidence: float) -> Interval:
    tail = (1 - confidence) / 2
    low, high = (square.mean / _over_dof(square.dof, p) for p in (1 - tail, tail))
    return Interval(estimate=square.mean, low=low, high=high, n=square.dof + 1, confidence=confidence,
                    method=f"chi-squared with {square.dof} degrees of freedom")  # fmt: skip


def _over_dof(dof: int, p: float) -> float:
    """Quantile of chi-squared over its degrees of freedom."""
    from scipy.special import chdtri

    return float(chdtri(dof, 1 - p)) / dof
