from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as oracle

from holdfast.core.errors import InputError
from holdfast.select.stats import holm, paired_difference, t_interval, wilson

numbers = st.floats(-1e3, 1e3).map(lambda x: round(x, 6))


def test_t_interval_equals_scipy():
    values = [0.375, 0.361, 0.402, 0.390, 0.371]
    got = t_interval(values, confidence=0.9)
    low, high = oracle.t.interval(0.9, 4, loc=np.mean(values), scale=oracle.sem(values))
    assert (got.low, got.high) == pytest.approx((low, high), rel=1e-12)
    assert (got.n, got.method) == (5, "t over 5 seeds")


def test_one_value_bounds_nothing():
    got = t_interval([0.4])
    assert got.estimate == 0.4
    assert not got.bounded
    assert "single" in got.method


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf, 1.0], [[1.0, 2.0]]])
def test_values_that_cannot_be_averaged_are_refused(values):
    with pytest.raises(InputError):
        t_interval(values)


def test_paired_difference_equals_scipy():
    a, b = [0.46, 0.53, 0.49, 0.51, 0.44], [0.61, 0.51, 0.55, 0.58, 0.50]
    got = paired_difference(a, b)
    assert got.p == pytest.approx(oracle.ttest_rel(a, b).pvalue, rel=1e-10)
    assert got.estimate == pytest.approx(np.mean(a) - np.mean(b))
    assert got.agree == 4


def test_identical_differences_are_not_testable():
    got = paired_difference([0.1, 0.2, 0.3], [0.2, 0.3, 0.4])  # equal but for rounding
    assert math.isnan(got.p)
    assert math.isnan(paired_difference([1.0], [2.0]).p)


def test_pairs_of_different_length_are_refused():
    with pytest.raises(InputError, match="cannot be paired"):
        paired_difference([1.0], [1.0, 2.0])


def test_holm_on_a_known_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))


def test_holm_counts_a_comparison_that_could_not_be_tested():
    adjusted = holm([0.02, math.nan])
    assert adjusted[0] == pytest.approx(0.04)
    assert math.isnan(adjusted[1])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_monotone_and_between_single_and_bonferroni(p_values):
    adjusted = holm(p_values)
    for p, a in zip(p_values, adjusted, strict=True):
        assert p <= a <= min(1.0, p * len(p_values)) + 1e-15
    order = np.argsort(p_values, kind="stable")
    assert all(np.diff(np.array(adjusted)[order]) >= 0)


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (1, 3), (120, 125)])
def test_wilson_equals_scipy(k, n):
    expected = oracle.binomtest(k, n).proportion_ci(0.95, method="wilson")
    got = wilson(k, n)
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_refuses_more_hits_than_trials():
    with pytest.raises(InputError):
        wilson(4, 3)


@given(st.lists(numbers, min_size=2, max_size=20), numbers)
def test_intervals_move_with_the_data(values, shift):
    here, there = t_interval(values), t_interval([v + shift for v in values])
    assert there.low - here.low == pytest.approx(shift, abs=1e-6)
    assert here.low <= here.estimate <= here.high


# --- coverage: what 95 % means ---------------------------------------------------------------------------


def _coverage(interval, draws):
    hits = [got.low <= 0 <= got.high for got in map(interval, draws)]
    return float(np.mean(hits))


@pytest.mark.parametrize("n", [3, 5])
def test_t_interval_covers_what_it_says(n):
    draws = np.random.default_rng(10).normal(size=(2000, n))
    assert _coverage(t_interval, draws) == pytest.approx(0.95, abs=0.015)  # 3 standard errors of 2000 draws


def test_holm_keeps_the_family_error():
    rng = np.random.default_rng(12)
    wrong = 0
    for _ in range(800):
        p = [paired_difference(rng.normal(size=5), rng.normal(size=5)).p for _ in range(4)]
        wrong += min(holm(p)) < 0.05
    assert wrong / 800 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 800)
