"""Equivalence by two one-sided tests, and how many more units a question would need."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from holdfast.core.errors import InputError
from holdfast.select.stats import Interval, spread, t_interval

__all__ = [
    "Equivalence", "Outcome", "decide", "power_one_sided", "seeds_needed", "tost", "units_to_decide", "units_to_show",
]  # fmt: skip

Outcome: TypeAlias = Literal["PASS", "FAIL", "INCONCLUSIVE"]

LARGEST_N = 1_000_000
"""Beyond this many units "more data" is no advice."""


@dataclass(frozen=True, kw_only=True)
class Equivalence:
    """Result of `tost`.

    Args:
        outcome: ``PASS``: shown to lie within the margin; ``FAIL``: shown to lie outside; else ``INCONCLUSIVE``.
        interval: two-sided interval at ``1 - 2 alpha``, the one that decides.
        p: the larger of the two one-sided p-values (NaN with fewer than two units).
        margin: half-width of the band.
        n_to_decide: units with which the observed difference would decide at 80 % power; None if none would.
    """

    outcome: Outcome
    interval: Interval
    p: float
    margin: float
    n_to_decide: int | None = None


def tost(differences: ArrayLike, margin: float, *, alpha: float = 0.05, unit: str = "seeds") -> Equivalence:
    """Two one-sided t tests of ``|mean difference| < margin`` (Schuirmann 1987): absence of a difference, shown.

    "Not significant" is not parity; this passes only when the ``1 - 2 alpha`` interval lies inside the margin.

    Args:
        differences: float (n,), one paired difference per independent unit, in the metric's unit.
        margin: half-width of the band, same unit, positive.
        alpha: level of each test. Default 0.05.
        unit: what a difference stands for.

    Raises:
        InputError: a margin that is not positive, or differences that are not finite.
    """
    if not margin > 0:
        raise InputError(f"margin {margin} is not positive", where="tost")
    interval = t_interval(differences, confidence=1 - 2 * alpha, unit=unit)
    outcome = decide(interval, -margin, margin)
    deviation = spread(np.asarray(differences, dtype=np.float64))
    return Equivalence(
        outcome=outcome, interval=interval, margin=margin, p=_tost_p(interval.estimate, deviation, interval.n, margin),
        n_to_decide=units_to_decide(interval, -margin, margin) if outcome == "INCONCLUSIVE" else None,
    )  # fmt: skip


def decide(interval: Interval, low: float, high: float) -> Outcome:
    """``PASS`` when the interval lies inside the band ``(low, high)``, ``FAIL`` when it lies outside.

    With an interval at ``1 - 2 alpha`` each end is a one-sided test at alpha; one end of the band may be infinite.
    """
    if not interval.bounded:
        return "INCONCLUSIVE"
    if low < interval.low and interval.high < high:
        return "PASS"
    return "FAIL" if interval.low > high or interval.high < low else "INCONCLUSIVE"


def units_to_decide(interval: Interval, low: float, high: float, *, power: float = 0.8) -> int | None:
    """Units with which `decide` would decide, were the estimate the truth and the noise as wide as the interval says.

    None with fewer than two units, no noise, an estimate on the edge of the band, or more than a million units.
    """
    if not interval.bounded or interval.n < 2:
        return None
    alpha, deviation = (1 - interval.confidence) / 2, _deviation(interval)
    inside, above = interval.estimate - low, high - interval.estimate
    if deviation == 0 or inside == 0 or above == 0:
        return None
    if inside < 0 or above < 0:
        return units_to_show(max(-inside, -above), deviation, alpha=alpha, power=power)

    def both(n: int) -> float:
        ends = (power_one_sided(gap, deviation, n, alpha) for gap in (inside, above) if np.isfinite(gap))
        return 1 - sum(1 - end for end in ends)

    return _smallest_n(both, power)


def seeds_needed(differences: ArrayLike, *, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """Pairs with which a two-sided paired t test would separate a difference as large and noisy as this one.

    An estimate from few pairs is rough: say "about". None when the mean is zero, fewer than two pairs were given, or a
    million pairs would not do.
    """
    x = np.asarray(differences, dtype=np.float64)
    if len(x) < 2:
        return None
    return units_to_show(abs(float(x.mean())), spread(x), alpha=alpha / 2, power=power)


def units_to_show(gap: float, deviation: float, *, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """Smallest n at which a one-sided t test shows a true ``gap > 0`` given the standard deviation of a unit."""
    if gap <= 0:
        return None
    if deviation == 0:
        return 2
    return _smallest_n(lambda n: power_one_sided(gap, deviation, n, alpha), power)


def power_one_sided(gap: float, deviation: float, n: int, alpha: float) -> float:
    """Probability that a one-sided one-sample t test at ``alpha`` detects a true mean ``gap`` with ``n`` units."""
    from scipy.special import nctdtr, ndtr, ndtri, stdtrit

    shift = gap * np.sqrt(n) / deviation
    if n > 300 or abs(shift) > 30:  # the noncentral t is the normal there, and its series loses digits
        return float(ndtr(shift + ndtri(alpha)))
    return float(1 - nctdtr(n - 1, shift, stdtrit(n - 1, 1 - alpha)))


def _deviation(interval: Interval) -> float:
    """Standard deviation of a unit that a t interval of this width implies."""
    from scipy.special import stdtrit

    half = (interval.high - interval.low) / 2
    return half * math.sqrt(interval.n) / float(stdtrit(interval.n - 1, 0.5 + interval.confidence / 2))


def _smallest_n(power_at: Callable[[int], float], power: float) -> int | None:
    """Bisection; power grows with n."""
    high = 2
    while power_at(high) < power:
        high *= 2
        if high > LARGEST_N:
            return None
    low = max(2, high // 2)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if power_at(middle) >= power else (middle + 1, high)
    return high


def _tost_p(estimate: float, deviation: float, n: int, margin: float) -> float:
    from scipy.special import stdtr

    if n < 2:
        return float("nan")
    if deviation == 0:
        return 0.0 if abs(estimate) < margin else 1.0
    return float(stdtr(n - 1, -(margin - abs(estimate)) * np.sqrt(n) / deviation))
