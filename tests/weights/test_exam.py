from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from weights_zoo import Zoo

from holdfast.core.errors import InputError, NonFiniteError
from holdfast.weights.exam import Exam, Sheet, compare


def scripted(values: np.ndarray, *, block: int = 50, better: str = "higher") -> Exam:
    """An exam whose answers are the model's weight times fixed values."""
    table = torch.from_numpy(values)
    return Exam(
        model=nn.Linear(1, 1, bias=False), size=len(values), block=block, better=better,
        measure=lambda model, indices: table[indices] * model.weight.detach().double().reshape(()),
    )  # fmt: skip


def sheet(exam: Exam, gains: np.ndarray) -> Sheet:
    return Sheet(exam=exam, state={}, gains=gains)


def test_only_what_is_needed_is_asked(zoo: Zoo) -> None:
    exam = zoo.exam(block=100)
    first = exam.sheet(zoo.base)
    first.upto(250)
    assert exam.asked == 250
    first.upto(200)
    assert exam.asked == 250
    first.mean()
    assert exam.asked == exam.size


def test_scores_do_not_depend_on_the_blocks(zoo: Zoo) -> None:
    whole, pieces = zoo.exam(block=10_000).sheet(zoo.base), zoo.exam(block=7).sheet(zoo.base)
    pieces.upto(100)
    assert np.array_equal(whole.upto(1500), pieces.upto(1500))


def test_lower_is_better_keeps_its_sign_in_means_and_turns_gains() -> None:
    exam = scripted(np.array([1.0, 3.0]), better="lower")
    found = exam.sheet({"weight": torch.ones(1, 1)})
    assert found.mean() == 2.0
    assert sorted(found.gains) == [-3.0, -1.0]


def test_the_model_comes_back_as_it_was(zoo: Zoo) -> None:
    exam = zoo.exam()
    before = {name: tensor.clone() for name, tensor in exam.model.state_dict().items()}
    exam.sheet(zoo.base).mean()
    assert all(torch.equal(before[name], tensor) for name, tensor in exam.model.state_dict().items())
    assert exam.model.training


def test_preparation_happens_once_and_stays_in_the_sheet() -> None:
    model = nn.BatchNorm1d(1)
    calls = []

    def prepare(prepared: nn.Module) -> None:
        calls.append(1)
        prepared.running_mean.fill_(5.0)

    exam = Exam(model=model, size=4, measure=lambda m, i: m.running_mean.expand(len(i)), prepare=prepare, block=2)
    found = exam.sheet(model.state_dict())
    assert found.mean() == 5.0
    assert len(calls) == 1
    assert float(found.state["running_mean"]) == 5.0
    assert float(model.running_mean) == 0.0


def test_nan_scores_are_refused() -> None:
    exam = scripted(np.array([1.0, np.nan]))
    with pytest.raises(NonFiniteError):
        exam.sheet({"weight": torch.ones(1, 1)}).mean()


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(InputError, match="no samples"):
        scripted(np.empty(0)).sheet({"weight": torch.ones(1, 1)})


@given(st.integers(0, 10_000), st.floats(-0.2, 0.2))
@settings(deadline=None, max_examples=60)
def test_without_risk_the_decision_is_that_of_the_means(seed: int, shift: float) -> None:
    rng = np.random.default_rng(seed)
    left, right = rng.integers(0, 2, 300).astype(float), rng.integers(0, 2, 300) - shift
    assume(shift == 0 or abs(left.mean() - right.mean()) > 1e-12)  # a tie that rounding alone decides
    exam = scripted(np.zeros(300))
    result = compare(sheet(exam, left), sheet(exam, right), risk=0.0)
    assert result.samples == 300
    assert result.accepted == (left.mean() > right.mean())


def test_early_decisions_are_rarely_wrong_and_save_samples() -> None:
    rng = np.random.default_rng(0)
    exam = scripted(np.zeros(2000), block=100)
    wrong = asked = 0
    for _ in range(400):
        shift = rng.normal(0.0, 0.05)
        left = (rng.random(2000) < 0.7 + shift).astype(float)
        right = (rng.random(2000) < 0.7).astype(float)
        result = compare(sheet(exam, left), sheet(exam, right), risk=0.01)
        wrong += result.accepted != (left.mean() > right.mean())
        asked += result.samples
    assert wrong <= 8  # 1 % of 400 is 4; Poisson(4) exceeds 8 once in fifty
    assert asked < 0.8 * 400 * 2000


def test_clear_cases_are_settled_at_the_first_look() -> None:
    rng = np.random.default_rng(0)
    exam = scripted(np.zeros(1000), block=100)
    good, bad = (rng.random(1000) < 0.9).astype(float), (rng.random(1000) < 0.3).astype(float)
    assert compare(sheet(exam, bad), sheet(exam, good)).samples == 100
    assert compare(sheet(exam, good), sheet(exam, bad)).samples == 100


def test_identical_answers_are_never_settled_early() -> None:
    exam = scripted(np.zeros(1000), block=100)
    gains = np.ones(1000)
    late = gains.copy()
    late[-1] = 2.0
    result = compare(sheet(exam, late), sheet(exam, gains))
    assert (result.accepted, result.samples) == (True, 1000)


def test_rules_differ_where_they_should() -> None:
    rng = np.random.default_rng(0)
    exam = scripted(np.zeros(500))
    base = rng.random(500)
    noise = 0.01 * rng.standard_normal(500)
    tie, tiny, clear = base.copy(), base + noise - noise.mean() + 2e-4, base + 0.1
    accepted = {
        rule: [compare(sheet(exam, x), sheet(exam, base), rule=rule).accepted for x in (tie, tiny, clear)]
        for rule in (">", ">=", "lcb")
    }
    assert accepted == {">": [False, True, True], ">=": [True, True, True], "lcb": [False, False, True]}


def test_an_unknown_rule_is_refused() -> None:
    exam = scripted(np.zeros(3))
    with pytest.raises(InputError, match="one of"):
        compare(sheet(exam, np.ones(3)), sheet(exam, np.ones(3)), rule="<")
