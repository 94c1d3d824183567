from __future__ import annotations

import mask_twins
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from holdfast.tasks.edges import edge_shift, row_edges

# Quarters keep clear of profiles that touch one half, where float32 and float64 may disagree.
profiles = hnp.arrays(np.float64, (3, 12), elements=st.sampled_from([0.0, 0.25, 0.4, 0.6, 0.75, 1.0]))


def line(left: float, right: float, width: int = 40) -> torch.Tensor:
    """Exact coverage of pixels by a bar, float (1, W)."""
    pixel = torch.arange(width)
    return (torch.minimum(pixel + 0.5, torch.tensor(right)) - torch.maximum(pixel - 0.5, torch.tensor(left))).clamp(
        0, 1
    )[None]


@given(profiles, profiles)
def test_equals_the_slow_twin(a: np.ndarray, b: np.ndarray) -> None:
    shifts = edge_shift(torch.from_numpy(a), torch.from_numpy(b))
    positions, counts = row_edges(torch.from_numpy(a))
    for i in range(len(a)):
        expected = mask_twins.edges(a[i].tolist())
        assert int(counts[i]) == len(expected)
        assert positions[i][: len(expected)].tolist() == pytest.approx(expected)
        assert float(shifts[i]) == pytest.approx(mask_twins.shift(a[i].tolist(), b[i].tolist()), nan_ok=True)


@given(st.floats(2, 10), st.floats(3, 8), st.floats(-1.5, 1.5))
def test_a_moved_bar_has_moved_by_that_much(left: float, width: float, shift: float) -> None:
    """Edges of an antialiased bar are found to a fraction of a pixel wherever they lie."""
    before, after = line(left, left + width), line(left + shift, left + width + shift)
    assert float(edge_shift(before, after)) == pytest.approx(abs(shift), abs=0.26)


@given(profiles)
def test_nothing_has_moved_from_itself(profile: np.ndarray) -> None:
    shifts = edge_shift(torch.from_numpy(profile), torch.from_numpy(profile))
    assert all(value == 0 for value in shifts.tolist() if not np.isnan(value))


@given(profiles, profiles)
def test_shift_is_symmetric(a: np.ndarray, b: np.ndarray) -> None:
    one, two = (
        edge_shift(torch.from_numpy(a), torch.from_numpy(b)),
        edge_shift(torch.from_numpy(b), torch.from_numpy(a)),
    )
    torch.testing.assert_close(one, two, equal_nan=True)


def test_a_line_that_only_one_shows_has_no_distance() -> None:
    one, two = line(5, 9), line(5, 9) + line(20, 24)
    assert torch.isnan(edge_shift(one, two)).all()
    assert torch.isnan(edge_shift(torch.zeros(1, 40), torch.zeros(1, 40))).all()


def test_more_edges_than_can_be_matched_have_no_distance() -> None:
    comb = torch.arange(40).remainder(2).float()[None]
    assert int(row_edges(comb)[1]) == 39
    assert torch.isnan(edge_shift(comb, comb)).all()
