from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as oracle

from holdfast.core.errors import InputError
from holdfast.select.power import power_one_sided, seeds_needed, tost, units_to_show


def _scipy_tost(x, margin):
    lower = oracle.ttest_1samp(x, -margin, alternative="greater").pvalue
    upper = oracle.ttest_1samp(x, margin, alternative="less").pvalue
    return max(lower, upper)


@pytest.mark.parametrize("margin", [0.02, 0.05, 0.2])
def test_tost_p_equals_two_scipy_tests(margin):
    x = [0.01, -0.02, 0.015, 0.03, 0.005]
    got = tost(x, margin)
    assert got.p == pytest.approx(_scipy_tost(x, margin), rel=1e-10)
    assert (got.outcome == "PASS") == (got.p < 0.05)


def test_tost_fails_only_when_shown_to_lie_outside():
    assert tost([0.30, 0.31, 0.29, 0.30], 0.1).outcome == "FAIL"
    assert tost([-0.30, -0.31, -0.29, -0.30], 0.1).outcome == "FAIL"
    assert tost([0.0, 0.5, -0.4], 0.1).outcome == "INCONCLUSIVE"


def test_tost_with_one_unit_decides_nothing():
    got = tost([0.0], 0.1)
    assert (got.outcome, got.n_to_decide) == ("INCONCLUSIVE", None)
    assert math.isnan(got.p)


def test_exact_agreement_passes():
    assert tost([0.0, 0.0, 0.0], 1e-6).outcome == "PASS"


def test_tost_needs_a_positive_margin():
    with pytest.raises(InputError, match="not positive"):
        tost([0.0, 0.1], 0.0)


def test_the_n_that_would_decide_does_decide():
    rng = np.random.default_rng(0)
    x = np.array([0.02, -0.05, 0.06, 0.01])
    n = tost(x, 0.05).n_to_decide
    assert n is not None
    assert n > 4
    mean, deviation = x.mean(), x.std(ddof=1)
    passed = np.mean([tost(rng.normal(mean, deviation, n), 0.05).outcome == "PASS" for _ in range(400)])
    assert 0.74 <= passed <= 0.88


@pytest.mark.parametrize(("gap", "deviation", "n"), [(0.5, 1.0, 10), (1.0, 1.0, 5), (0.1, 1.0, 250), (0.3, 0.2, 4)])
def test_power_equals_the_noncentral_t(gap, deviation, n):
    expected = oracle.nct.sf(oracle.t.ppf(0.95, n - 1), n - 1, gap * math.sqrt(n) / deviation)
    assert power_one_sided(gap, deviation, n, 0.05) == pytest.approx(expected, abs=1e-8)


def test_power_is_continuous_where_the_normal_takes_over():
    assert power_one_sided(0.15, 1.0, 301, 0.05) == pytest.approx(power_one_sided(0.15, 1.0, 300, 0.05), abs=5e-3)


def test_seeds_needed_for_a_difference_of_one_deviation():
    x = np.array([0.0, 1.0, 2.0])  # mean 1, deviation 1: textbook answer 10 pairs
    assert seeds_needed(x) == 10


@pytest.mark.parametrize("x", [[1.0], [-1.0, 1.0], [0.0, 0.0]])
def test_seeds_needed_has_no_answer_without_a_difference(x):
    assert seeds_needed(x) is None


def test_seeds_needed_gives_up_beyond_a_million():
    assert seeds_needed([1.0, -1.0 + 1e-9]) is None


@given(st.floats(0.05, 5.0), st.floats(0.05, 5.0))
def test_smallest_n_is_the_smallest(gap, deviation):
    n = units_to_show(gap, deviation)
    assert n is not None
    assert power_one_sided(gap, deviation, n, 0.05) >= 0.8
    assert n == 2 or power_one_sided(gap, deviation, n - 1, 0.05) < 0.8
