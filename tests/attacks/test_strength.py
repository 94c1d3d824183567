from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.attacks.strength import Bracket, narrowed
from holdfast.core.errors import InputError


def attack_of(true, calls=None):
    """An attack that breaks a sample from its true strength on, and uses all of its budget."""

    def attack(rows, eps):
        if calls is not None:
            calls.append(len(rows))
        return eps >= true[rows], eps

    return attack


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.001, 30), min_size=1, max_size=8), st.integers(2, 14))
def test_the_bracket_holds_the_truth_and_halves(strengths, rounds):
    true = torch.tensor(strengths, dtype=torch.float64)
    bracket = Bracket.opened(torch.zeros(len(true), dtype=torch.bool), 20.0)
    for _ in range(rounds):
        bracket = narrowed(bracket, attack_of(true))
        assert (bracket.low <= true).all()
        assert (true <= bracket.high).all()
    inside = true < 20
    assert ((bracket.high - bracket.low)[inside] <= 20.0 / 2 ** (rounds - 1) + 1e-9).all()
    assert torch.equal(bracket.held, true > 20)
    assert (bracket.value[true > 20] == 20).all()


def test_a_smaller_perturbation_narrows_faster():
    bracket = narrowed(
        Bracket.opened(torch.zeros(1, dtype=torch.bool), 8.0), lambda rows, eps: (eps > 0, eps * 0 + 1.5)
    )
    assert (float(bracket.low), float(bracket.high)) == (0.0, 1.5)


def test_settled_samples_are_not_attacked_again():
    calls: list[int] = []
    true = torch.tensor([1.0, 99.0, 2.0])
    bracket = Bracket.opened(torch.tensor([False, False, True]), 8.0)
    for _ in range(3):
        bracket = narrowed(bracket, attack_of(true, calls))
    assert calls == [2, 1, 1]
    assert bracket.value.tolist() == [2.0, 8.0, 0.0]
    assert bracket.held.tolist() == [False, True, False]


def test_resuming_from_what_was_kept_gives_the_same():
    true = torch.tensor([0.3, 5.0])
    whole = Bracket.opened(torch.zeros(2, dtype=torch.bool), 8.0)
    for _ in range(6):
        whole = narrowed(whole, attack_of(true))
    half = Bracket.opened(torch.zeros(2, dtype=torch.bool), 8.0)
    for _ in range(2):
        half = narrowed(half, attack_of(true))
    half = replace(half, low=half.low.clone(), high=half.high.clone())
    for _ in range(4):
        half = narrowed(half, attack_of(true))
    assert torch.equal(half.low, whole.low)
    assert torch.equal(half.high, whole.high)
    assert half.rounds == whole.rounds


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(InputError, match="not positive"):
        Bracket.opened(torch.zeros(1, dtype=torch.bool), 0.0)
