from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as oracle

from holdfast.core.errors import InputError
from holdfast.select.bootstrap import bootstrap_groups, group_means, within_run

numbers = st.floats(-1e3, 1e3).map(lambda x: round(x, 6))


def test_bootstrap_counts_groups_not_samples():
    rng = np.random.default_rng(0)
    block = rng.normal(size=12)
    values, groups = np.repeat(block, 50), np.repeat(np.arange(12), 50)
    grouped = bootstrap_groups(values, groups)
    alone = bootstrap_groups(values, np.arange(len(values)))
    assert grouped.n == 12
    assert grouped.high - grouped.low > 5 * (alone.high - alone.low)
    assert "BCa" in grouped.method


def test_fast_mean_equals_the_general_path():
    rng = np.random.default_rng(1)
    values, groups = rng.exponential(size=60), rng.integers(0, 9, 60)
    fast = bootstrap_groups(values, groups, repetitions=300, seed=4)
    slow = bootstrap_groups(values, groups, statistic=lambda x: float(np.mean(x)), repetitions=300, seed=4)
    assert (fast.low, fast.high) == pytest.approx((slow.low, slow.high), rel=1e-9)


def test_bootstrap_is_close_to_scipys_bca():
    values = np.random.default_rng(2).exponential(size=40)
    ours = bootstrap_groups(values, np.arange(40), repetitions=4000)
    theirs = oracle.bootstrap((values,), np.mean, method="BCa", n_resamples=4000, rng=np.random.default_rng(5))
    interval = theirs.confidence_interval
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high), rel=0.03)


def test_bootstrap_of_a_paired_statistic():
    rng = np.random.default_rng(3)
    clean = rng.uniform(0.5, 1.5, 80)
    both = np.column_stack([1.2 * clean, clean])
    ratio = bootstrap_groups(both, np.arange(80), statistic=lambda x: float(x[:, 0].mean() / x[:, 1].mean()))
    assert (ratio.low, ratio.high) == pytest.approx((1.2, 1.2))


def test_bootstrap_repeats_itself_and_needs_two_groups():
    values = [1.0, 2.0, 4.0, 8.0]
    assert bootstrap_groups(values, [0, 1, 2, 3]) == bootstrap_groups(values, [0, 1, 2, 3])
    assert not bootstrap_groups(values, [7, 7, 7, 7]).bounded
    with pytest.raises(InputError, match="groups"):
        bootstrap_groups(values, [0, 1])


@given(st.lists(st.tuples(numbers, st.integers(0, 4)), min_size=2, max_size=25))
def test_bootstrap_names_of_groups_do_not_matter(pairs):
    values, groups = (list(column) for column in zip(*pairs, strict=True))
    renamed = [f"recording-{g}" for g in groups]
    assert bootstrap_groups(values, groups, repetitions=50) == bootstrap_groups(values, renamed, repetitions=50)


def test_single_samples_and_blocks_of_one_are_the_same():
    values = np.random.default_rng(6).normal(size=(30, 2))
    whole = bootstrap_groups(values, np.arange(30)[::-1], statistic=lambda x: float(x[:, 0].mean()), repetitions=100)
    split = bootstrap_groups(values[:, 0], np.arange(30)[::-1], repetitions=100)
    assert (whole.low, whole.high) == pytest.approx((split.low, split.high))


def test_few_groups_fall_back_to_t_over_group_means():
    values, groups = [1.0, 3.0, 4.0, 4.0, math.nan], [0, 0, 1, 1, 1]
    got = within_run(values, groups)
    assert (got.estimate, got.n, got.method) == (3.0, 2, "t over 2 groups")
    low, high = oracle.t.interval(0.95, 1, loc=3.0, scale=oracle.sem([2.0, 4.0]))
    assert (got.low, got.high) == pytest.approx((low, high))


def test_many_groups_are_bootstrapped_without_undefined_samples():
    values = np.arange(40, dtype=float)
    values[0] = math.nan
    assert within_run(values, np.arange(40)) == bootstrap_groups(values[1:], np.arange(1, 40))


def test_group_means_need_a_defined_sample():
    assert group_means([1.0, 2.0, math.nan], ["b", "b", "a"]).tolist() == [1.5]
    with pytest.raises(InputError):
        group_means([math.nan], [0])
    with pytest.raises(InputError, match="groups"):
        group_means([1.0], [0, 1])


def test_bootstrap_covers_nearly_what_it_says_from_twenty_groups_on():
    draws = np.random.default_rng(11).normal(size=(300, 20))
    intervals = [bootstrap_groups(x, np.arange(20), repetitions=400) for x in draws]
    got = np.mean([i.low <= 0 <= i.high for i in intervals])
    assert 0.88 <= got <= 0.98


def test_with_few_groups_the_bootstrap_is_too_narrow_and_t_is_not():
    draws = np.random.default_rng(13).normal(size=(300, 6))
    covered = {"bootstrap": 0, "t": 0}
    for x in draws:
        intervals = {"bootstrap": bootstrap_groups(x, np.arange(6), repetitions=300), "t": within_run(x, np.arange(6))}
        for name, interval in intervals.items():
            covered[name] += interval.low <= 0 <= interval.high
    assert covered["bootstrap"] / 300 < 0.92
    assert covered["t"] / 300 > 0.92
