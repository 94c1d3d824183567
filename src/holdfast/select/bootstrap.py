"""The bootstrap within one run: groups of samples are drawn, because neighbouring frames are not independent."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from holdfast.core.errors import InputError
from holdfast.select.stats import Interval, finite, t_interval, unbounded

__all__ = ["bootstrap_groups", "group_means", "mean", "within_run"]

Floats = NDArray[np.float64]

FEW_GROUPS = 20
"""Below this many groups a bootstrap interval is too narrow; see `within_run`."""
DRAWS_AT_ONCE = 1 << 18


def mean(sample: Floats) -> float:
    """The mean over the first dimension of a one-dimensional sample."""
    return float(sample.mean())


def bootstrap_groups(
    values: ArrayLike,
    groups: ArrayLike,
    *,
    statistic: Callable[[Floats], float] = mean,
    confidence: float = 0.95,
    repetitions: int = 2000,
    seed: int = 0,
) -> Interval:
    """Bias-corrected accelerated (BCa) bootstrap that resamples whole groups, within one run.

    Neighbouring frames are not independent, so the group (recording, sequence, block) is drawn as one; the acceleration
    is a jackknife over groups. It says nothing about another training run: use `t_interval` over seeds for that.
    B. Efron, "Better bootstrap confidence intervals", 1987, eqs. 2.3 and 6.6.

    Args:
        values: float (n,) or (n, k), one row per sample, finite.
        groups: (n,) any codes; equal codes belong together.
        statistic: function of the pooled sample. Default: the mean.
        confidence: two-sided coverage. Default 0.95; below about 20 groups the true coverage is lower.
        repetitions: bootstrap samples. Default 2000.
        seed: of the resampling, so that a report renders to the same numbers.

    Raises:
        InputError: lengths differ, no values, or values that are not finite.
    """
    x = finite(values, "bootstrap_groups", dimensions=(1, 2))
    codes = np.unique(np.asarray(groups), return_inverse=True)[1].ravel()
    if len(codes) != len(x):
        raise InputError(f"{len(x)} values but {len(codes)} groups", where="bootstrap_groups")
    count = int(codes.max()) + 1
    estimate = statistic(x)
    if count < 2:
        return unbounded(estimate, count, confidence, "a single group")
    evaluate = _evaluator(x, codes, count, statistic)
    rng = np.random.default_rng(seed)
    at_once = max(1, DRAWS_AT_ONCE // count)
    parts = [min(at_once, repetitions - done) for done in range(0, repetitions, at_once)]
    replicates = np.concatenate([evaluate(rng.integers(0, count, (part, count))) for part in parts])
    everyone = np.arange(count)
    left_out = np.concatenate([evaluate(np.delete(everyone, g)[None]) for g in everyone])
    low, high = _bca(estimate, replicates, left_out, confidence)
    return Interval(
        estimate=estimate, low=low, high=high, n=count, confidence=confidence,
        method=f"BCa bootstrap over {count} groups",
    )  # fmt: skip


def within_run(values: ArrayLike, groups: ArrayLike, *, confidence: float = 0.95, seed: int = 0) -> Interval:
    """Interval of the mean over the samples of one run: BCa from 20 groups on, below that t over the groups' means.

    Of 500 normal samples of 10 groups, the upper end of the 90 % interval held in 90 % (BCa) and 94 % (t) instead of
    95 %; with 20 groups of skewed values it held in 92 % (BCa) and 90 % (t).

    Args:
        values: float (n,); NaN marks samples that do not count.
        groups: (n,) codes of recordings, sequences or blocks.
        confidence: two-sided coverage. Default 0.95.
        seed: of the resampling.

    Raises:
        InputError: no value is left, or lengths differ.
    """
    means = group_means(values, groups)
    if len(means) < FEW_GROUPS:
        return t_interval(means, confidence=confidence, unit="groups")
    x = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(x)
    return bootstrap_groups(x[known], np.asarray(groups)[known], confidence=confidence, seed=seed)


def group_means(values: ArrayLike, groups: ArrayLike) -> Floats:
    """Mean of each group in the order of the codes; NaN samples are left out, and groups of nothing else too.

    Raises:
        InputError: no value is left, or lengths differ.
    """
    x, codes = np.asarray(values, dtype=np.float64), np.asarray(groups)
    if x.shape != codes.shape:
        raise InputError(f"{x.shape} values but {codes.shape} groups", where="group_means")
    known = ~np.isnan(x)
    index = np.unique(codes[known], return_inverse=True)[1].ravel()
    finite(x[known], "group_means")
    return np.bincount(index, weights=x[known]) / np.bincount(index)


def _evaluator(
    x: Floats, codes: NDArray[np.intp], count: int, statistic: Callable[[Floats], float]
) -> Callable[[NDArray[np.intp]], Floats]:
    """Drawn groups (m, k) -> the statistic (m,) of their samples; means need only the sum and size of a group."""
    sizes = np.bincount(codes, minlength=count)
    if statistic is mean:
        sums = np.bincount(codes, weights=x, minlength=count)
        return lambda drawn: sums[drawn].sum(1) / sizes[drawn].sum(1)
    ordered = np.argsort(codes, kind="stable")
    if count == len(x):
        return lambda drawn: np.array([statistic(x[ordered[row]]) for row in drawn])
    members = np.split(ordered, np.cumsum(sizes)[:-1])
    return lambda drawn: np.array([statistic(x[np.concatenate([members[g] for g in row])]) for row in drawn])


def _bca(estimate: float, replicates: Floats, left_out: Floats, confidence: float) -> tuple[float, float]:
    from scipy.special import ndtr, ndtri

    # Ties count half, so that a discrete statistic is not taken for a biased one.
    below = float(np.mean(replicates < estimate) + 0.5 * np.mean(replicates == estimate))
    bias = float(ndtri(min(max(below, 1 / len(replicates)), 1 - 1 / len(replicates))))
    pull = left_out.mean() - left_out
    total = float((pull**2).sum())
    acceleration = float((pull**3).sum()) / (6 * total**1.5) if total > 0 else 0.0
    z = bias + ndtri(np.array([0.5 - confidence / 2, 0.5 + confidence / 2]))
    low, high = np.quantile(replicates, ndtr(bias + z / (1 - acceleration * z)))
    return float(low), float(high)
