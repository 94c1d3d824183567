from __future__ import annotations

import math

import pytest

from holdfast.select.stats import t_interval
from holdfast.select.wording import amount, change, count, ends, number, p_value, roughly, span, told_apart


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.46, "0.460"), (12.34, "12.3"), (1234.4, "1234"), (0.0, "0"), (-0.104, "−0.104"), (3e-6, "3.00e-06"),
     (math.nan, "–"), (math.inf, "–"), (99.96, "100")],
)  # fmt: skip
def test_numbers_show_three_digits(value, text):
    assert number(value) == text


def test_units_are_written_where_there_are_any():
    assert (amount(0.5, "m"), amount(0.5, "1"), amount(1.5, "×")) == ("0.500 m", "0.500", "×1.50")


def test_an_interval_without_ends_says_why():
    assert span(t_interval([1.0, 2.0, 3.0]), "m") == "−0.484 to 4.48 m"
    assert span(t_interval([1.0])) == "no interval from a single one of seeds"


def test_changes_need_a_common_sign():
    assert (change(0.9, 1.0), change(1.5, 1.0)) == ("−10 %", "+50 %")
    assert change(1.0, 0.0) == change(-1.0, 1.0) == ""


def test_p_values_are_printed_when_they_are_bad_too():
    assert (p_value(0.69), p_value(1e-9), p_value(math.nan)) == ("p = 0.690", "p < 0.001", "p undefined")


def test_counts():
    assert (count(1, "seed"), count(5, "seed")) == ("1 seed", "5 seeds")


def test_ends_use_a_dash_only_where_it_cannot_be_a_sign():
    assert ends(t_interval([1.0, 1.1, 1.2])) == "0.852–1.35"
    assert " to " in ends(t_interval([-1.0, 0.0, 1.0]))


def test_a_bound_and_its_limit_are_told_apart():
    assert told_apart(1.0983, 1.1, "×") == ("×1.098", "×1.100")
    assert told_apart(1.1, 1.1, "m") == ("1.10 m", "1.10 m")
    assert told_apart(0.2, 1.1, "m") == ("0.200 m", "1.10 m")


@pytest.mark.parametrize(("n", "words"), [(7, "about 7 seeds"), (46, "about 46 seeds"), (101, "about 110 seeds"),
                                          (13961, "about 14000 seeds"), (140, "about 140 seeds")])  # fmt: skip
def test_extrapolations_are_rounded_up_to_two_digits(n, words):
    assert roughly(n, "seed") == words
