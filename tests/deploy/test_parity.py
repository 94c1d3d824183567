from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.errors import InputError
from holdfast.deploy.parity import compare_tensors, count_flips, effective_n, judge

GROUPS = np.repeat(np.arange(30), 10)


def _values(mean: float, spread: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, spread, len(GROUPS))


def _judge(values: np.ndarray, kind: str = "difference", **options: float):
    return judge(values, GROUPS, name="lateral_error_42m", unit="m", kind=kind, **options)


@pytest.mark.parametrize(
    ("mean", "spread", "kind", "outcome"),
    [
        (0.0, 0.01, "difference", "PASS"),
        (0.1, 0.01, "difference", "FAIL"),
        (-0.1, 0.01, "difference", "FAIL"),
        (0.019, 0.5, "difference", "INCONCLUSIVE"),
        (-0.1, 0.01, "displacement", "PASS"),
        (0.1, 0.01, "displacement", "FAIL"),
    ],
)
def test_margins_decide(mean: float, spread: float, kind: str, outcome: str) -> None:
    finding = _judge(_values(mean, spread), kind, margin=0.02)
    assert finding.outcome == outcome
    assert (finding.needed is not None) == (outcome == "INCONCLUSIVE")
    assert finding.samples == 300
    assert finding.interval.n == 30
    assert finding.interval.confidence == pytest.approx(0.9)


def test_no_difference_at_all_passes_any_margin() -> None:
    assert _judge(np.zeros(300), margin=1e-9).outcome == "PASS"


def test_without_a_margin_nothing_is_judged_and_nan_is_left_out() -> None:
    values = _values(0.0, 0.01)
    values[:10], values[15] = np.nan, 7.0
    finding = _judge(values)
    assert (finding.outcome, finding.margin, finding.worst, finding.samples) == (None, None, 7.0, 290)


def test_what_lies_below_the_floor_is_not_blamed() -> None:
    assert _judge(np.full(300, -1e-6), floor=2e-6).below_floor
    assert not _judge(np.full(300, 3e-6), floor=2e-6).below_floor


def test_margins_must_be_positive() -> None:
    with pytest.raises(InputError, match="lateral_error_42m: margin 0"):
        _judge(np.zeros(300), margin=0)


def test_flips_are_split_by_harm() -> None:
    reference = np.array([False] * 280 + [True] * 20)
    other = reference.copy()
    other[[3, 77, 150]] = True
    other[295] = False
    flips = count_flips(reference, other, np.arange(300))
    assert flips.harmful.estimate == pytest.approx(0.01)
    assert flips.helpful.estimate == pytest.approx(1 / 300)
    assert flips.harmful.low < 0.01 < flips.harmful.high < 0.04
    assert flips.samples == 300


def test_flips_that_come_together_count_as_one() -> None:
    together = np.zeros(300, dtype=bool)
    together[100:110] = True
    apart = np.zeros(300, dtype=bool)
    apart[::30] = True
    none = np.zeros(300, dtype=bool)
    assert effective_n(together, GROUPS) == 30
    assert effective_n(apart, GROUPS) == 300
    wide, narrow = (count_flips(none, hit, GROUPS).harmful for hit in (together, apart))
    assert wide.estimate == narrow.estimate
    assert wide.high > narrow.high
    assert count_flips(none, none, GROUPS).harmful.high == pytest.approx(1 - 1 / (1 + 1.96**2 / 30), abs=1e-3)


@given(st.lists(st.booleans(), min_size=4, max_size=60), st.integers(1, 6))
def test_the_interval_holds_the_share_and_the_effective_n_its_bounds(hits: list[bool], size: int) -> None:
    hit = np.array(hits)
    groups = np.arange(len(hits)) // size
    n = effective_n(hit, groups)
    assert len(np.unique(groups)) <= n <= len(hit)
    share = count_flips(np.zeros(len(hit), dtype=bool), hit, groups).harmful
    assert 0 <= share.low <= share.estimate <= share.high <= 1


def test_lengths_must_agree() -> None:
    with pytest.raises(InputError, match="2, 3 decisions, 3 groups"):
        count_flips(np.zeros(2, dtype=bool), np.zeros(3, dtype=bool), np.arange(3))


def test_tensors_are_compared_by_value() -> None:
    r = np.array([[3.0, 4.0]], dtype=np.float32)
    same, off = compare_tensors(r, r), compare_tensors(r, r + np.array([0.5, 0.0]))
    assert (same.snr_db, same.cosine, same.largest) == (math.inf, pytest.approx(1.0), 0.0)
    assert off.snr_db == pytest.approx(20.0)
    assert off.largest == 0.5
    assert off.cosine < 1


def test_a_value_that_broke_is_counted_and_not_averaged() -> None:
    found = compare_tensors(np.array([1.0, 2.0, np.nan]), np.array([1.0, np.inf, np.nan]))
    assert (found.broken, found.largest, found.snr_db) == (1, 0.0, math.inf)
    assert compare_tensors(np.zeros(3), np.ones(3)).snr_db == -math.inf
    with pytest.raises(InputError, match="shapes"):
        compare_tensors(np.zeros(3), np.zeros(4))
