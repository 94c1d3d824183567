from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.errors import InputError
from holdfast.select.pareto import dominates, front, hypervolume, to_minimise

grid = st.integers(0, 6).map(float)


def points(axes, most=8):
    return st.lists(st.tuples(*[grid] * axes), min_size=1, max_size=most)


def test_dominance():
    assert dominates((1, 2), (1, 3))
    assert not dominates((1, 2), (1, 2))
    assert not dominates((0, 3), (1, 2))
    assert not dominates((math.nan, 0), (1, 2))


def test_front_of_a_staircase():
    assert front([[1, 4], [2, 2], [3, 3], [4, 1], [math.nan, 0]]) == [0, 1, 3]


def test_equal_points_stand_on_the_front_together():
    assert front([[1, 1], [1, 1], [2, 0]]) == [0, 1, 2]


@given(points(3))
def test_front_equals_its_definition(table):
    kept = front(table)
    for i, point in enumerate(table):
        beaten = any(all(np.less_equal(o, point)) and any(np.less(o, point)) for o in table)
        assert (i in kept) == (not beaten)


def _counted_volume(table, corner):
    """Unit cells of an integer grid that some point dominates."""
    cells = itertools.product(*(range(int(c)) for c in corner))
    return sum(any(all(p <= c for p, c in zip(point, cell, strict=True)) for point in table) for cell in cells)


@pytest.mark.parametrize("axes", [2, 3])
def test_hypervolume_equals_counted_cells(axes):
    @given(points(axes))
    def check(table):
        corner = [5.0] * axes
        assert hypervolume(table, corner) == pytest.approx(_counted_volume(table, corner))

    check()


@given(points(3, most=5), st.tuples(grid, grid, grid))
def test_hypervolume_never_shrinks_with_another_point(table, another):
    assert hypervolume([*table, another], [6, 6, 6]) >= hypervolume(table, [6, 6, 6]) - 1e-9


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(InputError, match="2 or 3 axes"):
        hypervolume([[1, 2, 3, 4]], [5, 5, 5, 5])
    with pytest.raises(InputError, match="cannot be ranked"):
        to_minimise(1.0, "neither")
    assert to_minimise(0.9, "higher") == -0.9
