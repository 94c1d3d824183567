"""The linear path between two networks: whether its middle is worse than its ends, before anything is averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from holdfast.weights.exam import Exam, Sheet
from holdfast.weights.tree import lerp

__all__ = ["Barrier", "measure_barrier"]

_LOSS_SHARES, _SCORE_SHARES = (0.1, 0.5), (0.02, 0.1)
"""Excess from which a barrier is raised and blocked, as shares of what the ends score. Fine-tunes of one model dip
below the line; the middle between unrelated networks is usually worse than both by more than their whole loss."""


@dataclass(frozen=True, kw_only=True)
class Barrier:
    """How much worse than the straight line between its ends a linear path gets.

    Args:
        height: largest excess over the line, in the exam's unit; positive is worse. Negative when the path dips.
        error: standard error of ``height``.
        alpha: where on the path.
        ends: mean score of both ends.
        verdict: ``none`` within three standard errors; ``raised`` above a tenth of the ends' mean loss; ``blocked``,
            another basin, above half of it. For a score that shall be high: above 2 and 10 per cent of it.
    """

    height: float
    error: float
    alpha: float
    ends: tuple[float, float]
    verdict: Literal["none", "raised", "blocked"]

    def record(self) -> dict[str, Any]:
        """For a file's metadata."""
        return asdict(self)


def measure_barrier(start: Sheet, end: Sheet, *, alphas: Sequence[float] = (0.5,), samples: int = 512) -> Barrier:
    """The barrier on the linear path: ``max_a [L(a) - (1 - a) L(0) - a L(1)]`` (Frankle et al. 2020, section 2).

    Args:
        start: sheet of one end; an exam of losses (``better="lower"``) says most, because accuracy saturates.
        end: sheet of the other end, of the same exam.
        alphas: points on the path. Default the middle, where barriers between networks stand.
        samples: how many to ask. Default 512.

    Returns:
        The highest excess and what it means. Errors are those of the paired differences.
    """
    exam = start.exam
    count = min(samples, exam.size)
    left, right = start.upto(count), end.upto(count)
    best: tuple[float, float, float] | None = None
    for alpha in alphas:
        middle = exam.sheet(lerp(start.state, end.state, alpha)).upto(count)
        excess = (1 - alpha) * left + alpha * right - middle
        error = float(excess.std(ddof=1) / np.sqrt(count)) if count > 1 else 0.0
        if best is None or excess.mean() > best[0]:
            best = (float(excess.mean()), error, alpha)
    assert best is not None
    height, error, alpha = best
    level = abs(float(left.mean()) + float(right.mean())) / 2
    sign = 1.0 if exam.better == "higher" else -1.0
    return Barrier(
        height=height, error=error, alpha=alpha,
        ends=(sign * float(left.mean()), sign * float(right.mean())), verdict=_verdict(exam, height, error, level),
    )  # fmt: skip


def _verdict(exam: Exam, height: float, error: float, level: float) -> Literal["none", "raised", "blocked"]:
    if height <= 3 * error:
        return "none"
    raised, blocked = _LOSS_SHARES if exam.better == "lower" else _SCORE_SHARES
    if height > blocked * level:
        return "blocked"
    return "raised" if height > raised * level else "none"
