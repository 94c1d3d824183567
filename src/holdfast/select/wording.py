"""Numbers as people read them, with units and intervals; the only place where they are spelled."""

from __future__ import annotations

import math

from holdfast.select.stats import Interval

__all__ = ["amount", "change", "count", "ends", "number", "p_value", "roughly", "span", "told_apart"]


def number(value: float, digits: int = 3) -> str:
    """Three significant digits with trailing zeros, so that columns compare: ``0.460``, ``12.3``, ``1234``."""
    if not math.isfinite(value):
        return "–"
    size = abs(value)
    if size == 0:
        return "0"
    if not 1e-4 <= size < 1e6:
        text = f"{size:.{digits - 1}e}"
    else:
        text = f"{size:.0f}" if size >= 10**digits else f"{size:#.{digits}g}".rstrip(".")
    return f"−{text}" if value < 0 else text


def amount(value: float, unit: str, digits: int = 3) -> str:
    """A number with its unit; the unit ``1`` is not written, and a factor is ``×1.42``."""
    text = number(value, digits)
    if unit == "×":
        return f"×{text}"
    return text if unit in {"", "1"} else f"{text} {unit}"


def span(interval: Interval, unit: str = "") -> str:
    """The ends of an interval, or why there are none."""
    if not interval.bounded:
        return f"no interval from {interval.method}"
    return f"{number(interval.low)} to {amount(interval.high, unit)}"


def ends(interval: Interval) -> str:
    """The ends of an interval for a table: ``0.537–0.586``, or ``−0.1 to 0.2`` where a dash would be misread."""
    between = "–" if interval.low >= 0 else " to "
    return f"{number(interval.low)}{between}{number(interval.high)}"


def told_apart(a: float, b: float, unit: str) -> tuple[str, str]:
    """Two amounts with as many digits as it takes to see which is larger, at most six."""
    digits = next((d for d in (3, 4, 5) if a == b or number(a, d) != number(b, d)), 6)
    return amount(a, unit, digits), amount(b, unit, digits)


def change(value: float, reference: float) -> str:
    """A relative change, ``-18 %``; empty where the reference is zero or the two differ in sign."""
    if reference == 0 or value * reference < 0:
        return ""
    return f"{100 * (value / reference - 1):+.0f} %".replace("-", "−")


def p_value(p: float) -> str:
    """``p = 0.012``; very small ones as a bound."""
    if math.isnan(p):
        return "p undefined"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def roughly(n: int, noun: str) -> str:
    """``about 14000 groups``: an extrapolated number of units, rounded up to two digits."""
    step = 10 ** max(0, len(str(n)) - 2)
    return f"about {count(-(-n // step) * step, noun)}"


def count(n: int, noun: str) -> str:
    """``1 seed``, ``5 seeds``."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
