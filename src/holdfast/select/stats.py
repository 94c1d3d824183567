"""Intervals and tests across independent repetitions, which for recipes are seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from holdfast.core.errors import InputError

__all__ = ["Interval", "Paired", "finite", "holm", "paired_difference", "spread", "t_interval", "unbounded", "wilson"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate with its confidence interval; infinite ends where the data bound nothing.

    Args:
        estimate: the point estimate.
        low, high: ends of the two-sided interval.
        n: independent units behind it (seeds, or groups of samples), not samples.
        confidence: two-sided coverage aimed at.
        method: how it was made, for the report, e.g. ``"t over 5 seeds"``.
    """

    estimate: float
    low: float
    high: float
    n: int
    confidence: float = 0.95
    method: str = ""

    @property
    def bounded(self) -> bool:
        """Whether both ends are finite."""
        return bool(np.isfinite(self.low) and np.isfinite(self.high))


@dataclass(frozen=True, kw_only=True)
class Paired:
    """The mean of paired differences ``a - b`` with its t interval and two-sided p-value.

    ``p`` is NaN where nothing can be tested: fewer than two pairs, or the same difference in every pair.
    """

    interval: Interval
    p: float
    differences: tuple[float, ...]

    @property
    def estimate(self) -> float:
        """Mean difference."""
        return self.interval.estimate

    @property
    def agree(self) -> int:
        """How many pairs differ in the direction of the mean."""
        return sum(d * self.estimate > 0 for d in self.differences)


def t_interval(values: ArrayLike, *, confidence: float = 0.95, unit: str = "seeds") -> Interval:
    """Student's interval ``mean +- t(n - 1) s / sqrt(n)`` over independent values.

    Args:
        values: float (n,), one value per independent unit, finite.
        confidence: two-sided coverage. Default 0.95.
        unit: what a value stands for, named in ``Interval.method``.

    Raises:
        InputError: no values, or values that are not finite.

    Example:
        >>> t_interval([1.0, 2.0, 3.0]).estimate
        2.0
    """
    x = finite(values, "t_interval")
    n, estimate = len(x), float(x.mean())
    if n < 2:
        return unbounded(estimate, n, confidence, f"a single one of {unit}")
    half = _t_quantile(0.5 + confidence / 2, n - 1) * spread(x) / math.sqrt(n)
    return Interval(
        estimate=estimate, low=estimate - half, high=estimate + half, n=n, confidence=confidence,
        method=f"t over {n} {unit}",
    )  # fmt: skip


def paired_difference(a: ArrayLike, b: ArrayLike, *, confidence: float = 0.95, unit: str = "seeds") -> Paired:
    """Paired t test of ``a - b``; the pairs (equal seeds of two recipes) are the independent units.

    Args:
        a: float (n,), one value per pair, finite.
        b: float (n,), the values that ``a`` is compared with, in the same order.
        confidence: two-sided coverage of the interval. Default 0.95.
        unit: what a pair stands for.

    Raises:
        InputError: different lengths, no values, or values that are not finite.
    """
    first, second = finite(a, "paired_difference"), finite(b, "paired_difference")
    if len(first) != len(second):
        raise InputError(f"{len(first)} values cannot be paired with {len(second)}", where="paired_difference")
    differences = first - second
    interval = t_interval(differences, confidence=confidence, unit=unit)
    deviation = spread(differences, scale=max(float(np.abs(first).max()), float(np.abs(second).max())))
    p = float("nan")
    if deviation > 0:
        p = 2 * _t_tail(abs(interval.estimate) / deviation * math.sqrt(interval.n), interval.n - 1)
    return Paired(interval=interval, p=p, differences=tuple(float(d) for d in differences))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Holm's step-down adjustment: compare the results with alpha as if each were a single test.

    ``p_(k)`` becomes ``max_{j <= k} min(1, (m - j + 1) p_(j))``. A NaN (untestable comparison) stays NaN but counts in
    ``m``: it was planned. S. Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    m = len(p_values)
    ranked = sorted(range(m), key=lambda i: 1.0 if np.isnan(p_values[i]) else p_values[i])
    adjusted, running = [float("nan")] * m, 0.0
    for rank, i in enumerate(ranked):
        if not np.isnan(p_values[i]):
            running = max(running, min(1.0, (m - rank) * p_values[i]))
            adjusted[i] = running
    return tuple(adjusted)


def wilson(k: int, n: int, *, confidence: float = 0.95) -> Interval:
    """Wilson's score interval for a share ``k / n`` of independent trials.

    Raises:
        InputError: unless ``0 <= k <= n`` and ``n >= 1``.
    """
    if not 0 <= k <= n or n < 1:
        raise InputError(f"{k} of {n} is no share", where="wilson")
    from scipy.special import ndtri

    z2 = float(ndtri(0.5 + confidence / 2)) ** 2
    share = k / n
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    low = 0.0 if k == 0 else float(centre - half)
    high = 1.0 if k == n else float(centre + half)
    return Interval(estimate=share, low=low, high=high, n=n, confidence=confidence, method=f"Wilson over {n} trials")


def spread(x: Floats, *, scale: float | None = None) -> float:
    """Sample standard deviation; exactly 0 where values differ by rounding only.

    ``scale`` is the size of the numbers from which ``x`` was computed, default that of ``x``.
    """
    if len(x) < 2:
        return 0.0
    deviation = float(x.std(ddof=1))
    rounding = 1e-12 * (float(np.abs(x).max()) if scale is None else scale)
    return deviation if deviation > rounding else 0.0


def unbounded(estimate: float, n: int, confidence: float, method: str) -> Interval:
    """An interval that bounds nothing, with the reason in ``method``."""
    return Interval(
        estimate=estimate, low=-float("inf"), high=float("inf"), n=n, confidence=confidence, method=method
    )  # fmt: skip


def finite(values: ArrayLike, where: str, *, dimensions: tuple[int, ...] = (1,)) -> Floats:
    """``values`` as a float64 array, refused with an `InputError` when empty, not finite or of another rank."""
    x = np.asarray(values, dtype=np.float64)
    if x.ndim not in dimensions or len(x) == 0:
        raise InputError(f"values of shape {x.shape}", where=where, fix="give at least one value per unit")
    if not np.isfinite(x).all():
        raise InputError("values hold NaN or infinity", where=where, fix="leave out what was not measured")
    return x


def _t_quantile(probability: float, dof: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(dof, probability))


def _t_tail(t: float, dof: int) -> float:
    """Probability that Student's t exceeds ``t``."""
    from scipy.special import stdtr

    return float(stdtr(dof, -t))
