from __future__ import annotations

import math

import pytest
import torch

from holdfast.core.errors import InputError
from holdfast.weights.travel import permuted, travel


def test_distances_are_those_of_the_equations() -> None:
    start = {"w": torch.tensor([[3.0, 0.0], [0.0, 4.0]]), "b": torch.tensor([0.0, 0.0])}
    end = {"w": torch.tensor([[3.0, 1.0], [2.0, 2.0]]), "b": torch.tensor([0.0, -0.5])}
    found = travel(start, end, ["w", "b"])
    assert found.l2 == pytest.approx(math.sqrt(1 + 4 + 4 + 0.25))
    assert found.rms == pytest.approx(found.l2 / math.sqrt(6))
    assert found.linf == 2.0
    assert found.relative == pytest.approx(found.l2 / 5)
    assert found.row == pytest.approx(math.sqrt(8) * math.sqrt(2))


def test_what_began_at_zero_moved_infinitely_far_and_what_did_not_move_not_at_all() -> None:
    zero, moved = {"b": torch.zeros(3)}, {"b": torch.ones(3)}
    assert travel(zero, moved, ["b"]).relative == math.inf
    assert travel(zero, zero, ["b"]).relative == 0
    assert math.isnan(travel(zero, moved, ["b"]).row)


def test_what_is_not_in_both_states_is_refused() -> None:
    with pytest.raises(InputError, match="'c' is not in both"):
        travel({"b": torch.zeros(1)}, {"b": torch.zeros(1), "c": torch.zeros(1)}, ["b", "c"])
    with pytest.raises(InputError, match="no tensors are named"):
        travel({}, {}, [])


def test_a_draw_from_the_recorded_law_has_its_entries_in_another_order() -> None:
    start = {
        "w": torch.randn(20, 30, generator=torch.Generator().manual_seed(0)),
        "b": torch.zeros(20),
        "x": torch.ones(1),
    }
    draws = [permuted(start, ["w", "b"], torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert list(draws[0]) == ["w", "b"]
    assert torch.equal(draws[0]["w"], draws[1]["w"])
    assert not torch.equal(draws[0]["w"], draws[2]["w"])
    assert torch.equal(draws[0]["w"].flatten().sort().values, start["w"].flatten().sort().values)
    rows = draws[0]["w"].double()
    assert abs(float((rows[0] @ rows[1]) / rows[0].norm() / rows[1].norm())) < 0.6
    assert not draws[0]["b"].any()
