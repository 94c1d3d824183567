from __future__ import annotations

import ensemble_twins
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.attacks import hyperplane
from holdfast.attacks.hyperplane import nearest_on


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), norm=st.sampled_from(["linf", "l2"]), size=st.integers(1, 9), far=st.floats(0.01, 3))
def test_equals_bisection(seed, norm, size, far):
    g = torch.Generator().manual_seed(seed)
    slope = torch.randn(4, size, generator=g).double()
    slope[torch.rand(4, size, generator=g) < 0.2] = 0.0
    point = torch.rand(4, size, generator=g).double()
    gap = far * torch.randn(4, generator=g).double()
    gap[0] = 0.0
    found = nearest_on(slope, gap, point, 1 - point, norm)
    for i in range(4):
        expected = ensemble_twins.nearest_on(slope[i], float(gap[i]), point[i], 1 - point[i], norm)
        torch.testing.assert_close(found[i], expected, atol=1e-8, rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), norm=st.sampled_from(["linf", "l2"]), guess=st.floats(0, 1e7))
def test_where_the_search_begins_does_not_matter(seed, norm, guess):
    g = torch.Generator().manual_seed(seed)
    slope, room, gap = torch.randn(5, 7, generator=g), torch.rand(5, 7, generator=g), torch.randn(5, generator=g)
    slope[0], gap[1] = 0.0, 1e3  # one that nothing closes, and one that takes all the room
    begun = torch.full((5,), guess)
    found = nearest_on(slope, gap, room, 1 - room, norm, begun)
    torch.testing.assert_close(found, nearest_on(slope, gap, room, 1 - room, norm))
    kept = begun.clone()
    assert not torch.equal(kept, torch.full((5,), guess))
    torch.testing.assert_close(nearest_on(slope, gap, room, 1 - room, norm, begun), found)
    torch.testing.assert_close(begun, kept)


def test_without_walls_it_is_the_closed_form():
    slope, gap = torch.tensor([[3.0, -4.0]]), torch.tensor([10.0])
    wide = torch.full_like(slope, torch.inf)
    torch.testing.assert_close(nearest_on(slope, gap, wide, wide, "l2"), 10 * slope / 25)
    torch.testing.assert_close(nearest_on(slope, gap, wide, wide, "linf"), 10 / 7 * slope.sign())


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_no_slope_moves_nothing_and_too_far_takes_all_the_room(norm):
    room = torch.full((1, 3), 0.5)
    assert torch.equal(nearest_on(torch.zeros(1, 3), torch.ones(1), room, room, norm), torch.zeros(1, 3))
    slope = torch.tensor([[1.0, -2.0, 0.5]])
    torch.testing.assert_close(nearest_on(slope, torch.tensor([1e3]), room, room, norm), 0.5 * slope.sign())


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_steps_that_are_not_asked_for_end_where_the_others_do(norm, monkeypatch):
    g = torch.Generator().manual_seed(3)
    slope, room, gap = torch.randn(8, 3072, generator=g), torch.rand(8, 3072, generator=g), torch.randn(8, generator=g)
    asked = nearest_on(slope, 100 * gap, room, 1 - room, norm)
    monkeypatch.setattr(hyperplane, "ASKED", ())
    torch.testing.assert_close(nearest_on(slope, 100 * gap, room, 1 - room, norm), asked)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_single_precision_beside_elements_without_walls(norm):
    g = torch.Generator().manual_seed(1)
    slope, gap = torch.randn(6, 400, generator=g), torch.randn(6, generator=g)
    room = torch.rand(6, 400, generator=g).where(torch.rand(6, 400, generator=g) < 0.5, torch.inf)
    found = nearest_on(slope, gap, room, room, norm)
    expected = nearest_on(slope.double(), gap.double(), room.double(), room.double(), norm)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pieces_are_the_whole(norm, monkeypatch):
    g = torch.Generator().manual_seed(2)
    slope, gap, room = torch.randn(7, 3, 5, generator=g), torch.randn(7, generator=g), torch.rand(7, 3, 5, generator=g)
    whole = nearest_on(slope, gap, room, room, norm)
    monkeypatch.setattr(hyperplane, "_IN_CACHE", 31)
    assert torch.equal(nearest_on(slope, gap, room, room, norm), whole)
    assert nearest_on(slope[:0], gap[:0], room[:0], room[:0], norm).shape == (0, 3, 5)


def test_a_search_that_begins_where_it_ends_asks_less(monkeypatch):
    g, asked, vecdot = torch.Generator().manual_seed(3), [], torch.linalg.vecdot
    slope, room, gap = torch.randn(8, 500, generator=g), torch.rand(8, 500, generator=g), torch.randn(8, generator=g)
    monkeypatch.setattr("torch.linalg.vecdot", lambda *given: asked.append(1) or vecdot(*given))
    guess, counts = torch.zeros(8), []
    for _ in range(2):
        nearest_on(slope, 30 * gap, room, 1 - room, "linf", guess)
        counts.append(len(asked) - sum(counts))
    assert counts[1] == 4 < counts[0]  # two sums at the guess, and two to see that it was right
