"""What a gate looks at: the interval of its quantity over seeds, or within a run where there are too few seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from holdfast.core.config import Gate, Where
from holdfast.core.errors import HoldfastError
from holdfast.core.rows import Row
from holdfast.select.bootstrap import FEW_GROUPS, bootstrap_groups, group_means, within_run
from holdfast.select.stats import Interval, t_interval

__all__ = ["Evidence", "Samples", "UndecidableError", "across_seeds", "other_side", "within_one_run"]

Samples = Callable[[Row], tuple[NDArray[np.float64], NDArray[np.int64]]]
"""Per-sample values, float (n,) with NaN where undefined, and group codes (n,) of a row."""

Pair = tuple[Row, Row | None]
"""The row a gate speaks of, and the row it is compared with."""


class UndecidableError(HoldfastError):
    """There is no interval to look at; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """An interval and what was repeated: ``noun`` is ``seed`` or ``group``."""

    interval: Interval
    noun: str


def other_side(gate: Gate) -> Where | None:
    """The rows a gate is compared with: another pipeline for a ratio, another subject or pipeline for equivalence."""
    if gate.relative_to is not None:
        return gate.model_copy(update={"preprocessing": gate.relative_to})
    if gate.margin is not None:
        return gate.model_copy(
            update={
                "subject": gate.equivalent_to or gate.subject,
                "preprocessing": gate.equivalent_preprocessing or gate.preprocessing,
            }
        )
    return None


def across_seeds(gate: Gate, pairs: list[Pair]) -> Evidence:
    """Student interval at ``1 - 2 alpha`` over one number per seed: a mean, a log ratio or a difference of means.

    Raises:
        UndecidableError: a ratio of values that are not positive.
    """
    numbers = [_combine(gate, np.array([row.value]), _value(other))[0] for row, other in pairs]
    return Evidence(interval=t_interval(numbers, confidence=1 - 2 * gate.alpha), noun="seed")


def within_one_run(gate: Gate, pair: Pair, samples: Samples) -> Evidence:
    """Interval at ``1 - 2 alpha`` over groups of samples of one run; it says nothing of the next training.

    Raises:
        UndecidableError: no per-sample values, values that do not pair, or a ratio of values that are not positive.
    """
    confidence = 1 - 2 * gate.alpha
    (ours, groups), other = _samples(pair[0], samples), pair[1]
    if other is None:
        return Evidence(interval=within_run(ours, groups, confidence=confidence), noun="group")
    theirs, their_groups = _samples(other, samples)
    if not np.array_equal(groups, their_groups):
        raise UndecidableError("the two sides were not measured on the same samples")
    known = ~(np.isnan(ours) | np.isnan(theirs))
    ours, theirs, groups = ours[known], theirs[known], groups[known]
    if gate.relative_to is None:
        return Evidence(interval=within_run(ours - theirs, groups, confidence=confidence), noun="group")
    return Evidence(interval=_ratio_within_run(gate, ours, theirs, groups, confidence), noun="group")


def _ratio_within_run(
    gate: Gate, ours: NDArray[np.float64], theirs: NDArray[np.float64], groups: NDArray[np.int64], confidence: float
) -> Interval:
    """Of the log ratio: BCa over pooled means, or t over the groups' own ratios where there are few groups."""
    if len(np.unique(groups)) < FEW_GROUPS:
        ratios = _combine(gate, group_means(ours, groups), group_means(theirs, groups))
        return t_interval(ratios, confidence=confidence, unit="groups")

    def pooled(sample: NDArray[np.float64]) -> float:
        means = sample.mean(axis=0)
        return float(_combine(gate, means[:1], means[1:])[0])

    return bootstrap_groups(np.column_stack([ours, theirs]), groups, statistic=pooled, confidence=confidence)


def _combine(gate: Gate, ours: NDArray[np.float64], theirs: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """The gate's quantity: the value, the log of a ratio (ratios of errors are skewed), or the difference."""
    if theirs is None:
        return ours
    if gate.relative_to is None:
        return ours - theirs
    if (ours <= 0).any() or (theirs <= 0).any():
        raise UndecidableError("a ratio needs positive values on both sides")
    return np.asarray(np.log(ours / theirs), dtype=np.float64)


def _value(row: Row | None) -> NDArray[np.float64] | None:
    return None if row is None else np.array([row.value])


def _samples(row: Row, samples: Samples) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    if not row.samples:
        raise UndecidableError(f"fewer than three seeds, and no per-sample values of {row.metric}")
    values, groups = samples(row)
    if np.isnan(values).all():
        raise UndecidableError(f"{row.metric} is undefined on every sample")
    return values, groups
