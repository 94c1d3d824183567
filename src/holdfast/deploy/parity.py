"""Is what ships what was trained? Differences between two subjects on the same samples, judged in task units."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from holdfast.core.errors import InputError
from holdfast.select.bootstrap import group_means, within_run
from holdfast.select.power import Outcome, decide, units_to_decide
from holdfast.select.stats import Interval, wilson

__all__ = ["Finding", "Flips", "Kind", "TensorAgreement", "compare_tensors", "count_flips", "effective_n", "judge"]

Kind: TypeAlias = Literal["difference", "displacement"]
Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One quantity, compared and judged.

    Args:
        name, unit: of the metric or drift.
        kind: ``difference`` of a metric (other minus reference, signed) or ``displacement`` (a drift, never negative).
        interval: of the mean, at ``1 - 2 alpha``; over groups of samples.
        worst: largest absolute value of a sample.
        floor: largest mean displacement under changes that alter nothing but rounding.
        margin: what is allowed; None: reported, not judged.
        outcome: ``PASS`` inside the margin, ``FAIL`` outside, else ``INCONCLUSIVE``; None without a margin.
        needed: groups with which the comparison would decide.
        samples: how many entered.
    """

    name: str
    unit: str
    kind: Kind
    interval: Interval
    worst: float
    floor: float = 0.0
    margin: float | None = None
    outcome: Outcome | None = None
    needed: int | None = None
    samples: int = 0

    @property
    def below_floor(self) -> bool:
        """Whether the model departs from itself by as much: nothing to blame on a back-end."""
        return abs(self.interval.estimate) <= self.floor


def judge(
    values: Floats, groups: NDArray[np.int64], *, name: str, unit: str, kind: Kind, margin: float | None = None,
    floor: float = 0.0, alpha: float = 0.05,
) -> Finding:  # fmt: skip
    """Two one-sided tests of equivalence for a difference, one for a displacement; over groups, not samples.

    Args:
        values: float (n,), other minus reference for a difference; NaN marks samples that do not count.
        groups: (n,) codes of recordings, sequences or blocks.
        name: see `Finding`.
        unit: see `Finding`.
        kind: see `Finding`.
        margin: half-width of the band for a difference, upper limit for a displacement; None judges nothing.
        floor: see `Finding`.
        alpha: level of each one-sided test.

    Raises:
        InputError: a margin that is not positive, or no value that counts.
    """
    if margin is not None and not margin > 0:
        raise InputError(f"margin {margin} is not positive", where=name)
    interval = within_run(values, groups, confidence=1 - 2 * alpha)
    low = -math.inf if kind == "displacement" else -(margin or math.inf)
    high = margin or math.inf
    outcome = None if margin is None else decide(interval, low, high)
    return Finding(
        name=name, unit=unit, kind=kind, interval=interval, worst=float(np.nanmax(np.abs(values))), floor=floor,
        margin=margin, outcome=outcome, samples=int(np.isfinite(values).sum()),
        needed=units_to_decide(interval, low, high) if outcome == "INCONCLUSIVE" else None,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Flips:
    """Decisions that changed, as shares of all samples with Wilson intervals.

    Args:
        harmful: right with the reference, wrong now.
        helpful: wrong with the reference, right now.
        samples: decisions compared.
    """

    harmful: Interval
    helpful: Interval
    samples: int


def count_flips(reference_failed: Bools, other_failed: Bools, groups: NDArray[np.int64]) -> Flips:
    """Changed decisions, split by whether the change does harm: equal error rates can hide many of both.

    The intervals count as many independent trials as `effective_n` says, because neighbouring frames flip together.

    Args:
        reference_failed: bool (n,): what the task calls broken with the reference.
        other_failed: bool (n,): the same with the other subject.
        groups: (n,) codes of recordings, sequences or blocks.

    Raises:
        InputError: lengths differ or there are no samples.
    """
    if not len(reference_failed) == len(other_failed) == len(groups) > 0:
        raise InputError(f"{len(reference_failed)}, {len(other_failed)} decisions, {len(groups)} groups", where="flips")
    harmful, helpful = other_failed & ~reference_failed, reference_failed & ~other_failed
    return Flips(
        harmful=_share(harmful, groups), helpful=_share(helpful, groups), samples=len(groups)
    )  # fmt: skip


def _share(hit: Bools, groups: NDArray[np.int64]) -> Interval:
    n = effective_n(hit, groups)
    # Counts are scaled to the effective sample, rounded to the side that widens the interval.
    k = math.ceil(hit.mean() * n) if hit.any() else 0
    scaled = wilson(min(k, n), n)
    return Interval(
        estimate=float(hit.mean()), low=min(scaled.low, float(hit.mean())), high=scaled.high, n=n,
        confidence=scaled.confidence, method=f"Wilson, {n} independent of {len(hit)}",
    )  # fmt: skip


def effective_n(hit: Bools, groups: NDArray[np.int64]) -> int:
    r"""Independent trials that carry as much information on a share as these grouped ones.

    With group means :math:`m_g` of equal weight, :math:`n_\text{eff} = p (1 - p) / \widehat{var}(\bar m)`, between the
    number of groups and the number of samples. Where nothing or everything is hit it is the number of groups.
    """
    means = group_means(hit.astype(np.float64), groups)
    share, count = float(hit.mean()), len(means)
    if count < 2 or share in (0.0, 1.0):
        return count
    variance = float(means.var(ddof=1)) / count
    return len(hit) if variance == 0 else int(min(len(hit), max(count, share * (1 - share) / variance)))


@dataclass(frozen=True, kw_only=True)
class TensorAgreement:
    r"""Distance of one output tensor from another. Reported, never gated: damage hides behind a cosine of 0.9999.

    Args:
        snr_db: :math:`10 \log_{10} \sum r^2 / \sum (r - o)^2`.
        cosine: of the flattened tensors.
        p99, largest: of the absolute differences, in the tensor's own unit.
        broken: values that are finite in one of the two only.
    """

    snr_db: float
    cosine: float
    p99: float
    largest: float
    broken: int


def compare_tensors(reference: NDArray[np.floating], other: NDArray[np.floating]) -> TensorAgreement:
    """Compare two arrays of the same shape; where either is not finite, only ``broken`` counts it.

    Raises:
        InputError: shapes differ.
    """
    if reference.shape != other.shape:
        raise InputError(f"shapes {reference.shape} and {other.shape}", where="compare_tensors")
    r, o = reference.astype(np.float64).ravel(), other.astype(np.float64).ravel()
    finite = np.isfinite(r) & np.isfinite(o)
    broken = int((np.isfinite(r) != np.isfinite(o)).sum())
    r, o = r[finite], o[finite]
    difference = np.abs(r - o)
    noise, signal = float(difference @ difference), float(r @ r)
    lengths = math.sqrt(signal * float(o @ o))
    return TensorAgreement(
        snr_db=_decibels(signal, noise), cosine=float(r @ o) / lengths if lengths else float(not noise),
        p99=float(np.quantile(difference, 0.99)) if len(difference) else 0.0,
        largest=float(difference.max(initial=0.0)), broken=broken,
    )  # fmt: skip


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf
