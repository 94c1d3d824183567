from __future__ import annotations

import json

import pytest
import torch
from soups_twin import naive_greedy
from torch import Tensor
from weights_zoo import Zoo

from holdfast.core.errors import InputError
from holdfast.weights.greedy import GreedyRules, Ingredient, greedy_soup
from holdfast.weights.tree import mean


def shelf(states: list[dict[str, Tensor]], scores: list[float] | None = None) -> list[Ingredient]:
    return [
        Ingredient(label=str(index), load=lambda s=state: s, score=scores[index] if scores else None)
        for index, state in enumerate(states)
    ]


def naive(zoo: Zoo, states: list[dict[str, Tensor]], *, strict: bool = True) -> tuple[list[int], int]:
    exam = zoo.exam(block=2000)
    return naive_greedy(states, lambda state: exam.sheet(state).mean(), strict=strict)


@pytest.mark.parametrize("accept", [">", ">="])
def test_without_risk_it_is_the_published_recipe(zoo: Zoo, accept: str) -> None:
    soup = greedy_soup(shelf(zoo.tuned), zoo.exam(), rules=GreedyRules(accept=accept, risk=0.0, barrier="off"))
    members, _ = naive(zoo, zoo.tuned, strict=accept == ">")
    assert [int(label) for label in soup.members] == members
    expected = mean([zoo.tuned[k] for k in members])
    for name, value in soup.state.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)


def test_the_soup_is_at_least_as_good_as_its_best_ingredient(zoo: Zoo) -> None:
    exam = zoo.exam()
    best = max(exam.sheet(state).mean() for state in zoo.tuned)
    soup = greedy_soup(shelf(zoo.tuned), exam, rules=GreedyRules(risk=0.0))
    assert exam.sheet(soup.state).mean() >= best


def test_known_scores_and_early_decisions_save_evaluations(zoo: Zoo) -> None:
    exam = zoo.exam()
    scores = [exam.sheet(state).mean() for state in zoo.tuned]
    rules = GreedyRules(barrier="off")
    cold = greedy_soup(shelf(zoo.tuned), zoo.exam(block=100), rules=rules)
    warm = greedy_soup(shelf(zoo.tuned, scores), zoo.exam(block=100), rules=rules)
    assert warm.members == cold.members
    assert warm.evaluations <= cold.evaluations - len(zoo.tuned) + 1 + 1e-9  # the best itself is still asked
    assert cold.evaluations <= 2 * len(zoo.tuned) - 1  # the naive recipe


def test_every_trial_has_a_reason_and_strangers_are_kept_out(zoo: Zoo) -> None:
    soup = greedy_soup(shelf([*zoo.tuned[:3], *zoo.strangers]), zoo.exam(), loss=zoo.exam(loss=True))
    reasons = {trial.label: trial.reason for trial in soup.trials}
    assert len(reasons) == 5
    assert all(reasons.values())
    top = soup.trials[0].label
    if top in "34":
        assert all("another basin" in reasons[label] for label in "012")
    else:
        assert all("another basin" in reasons[label] for label in "34")
    json.dumps(soup.record())


def test_strangers_may_be_flagged_instead(zoo: Zoo) -> None:
    soup = greedy_soup(shelf(zoo.strangers), zoo.exam(), loss=zoo.exam(loss=True), rules=GreedyRules(barrier="flag"))
    assert soup.members == (soup.trials[0].label,)
    assert soup.trials[1].barrier is not None
    assert soup.trials[1].barrier.verdict == "blocked"
    assert soup.trials[1].comparison is not None


def test_a_lonely_best_is_explained_by_barriers(zoo: Zoo) -> None:
    soup = greedy_soup(shelf(zoo.strangers), zoo.exam(), loss=zoo.exam(loss=True))
    assert "1 lie behind a barrier" in soup.explanation


def test_a_lonely_best_is_explained_by_too_wide_a_sweep(zoo: Zoo) -> None:
    hurt = [{k: v + 0.2 * torch.randn_like(v) for k, v in zoo.tuned[0].items()} for _ in range(2)]
    soup = greedy_soup(shelf([zoo.tuned[0], *hurt]), zoo.exam(), rules=GreedyRules(barrier="off"))
    assert soup.members == ("0",)
    assert "2 are by themselves worse than the best by more than three standard errors" in soup.explanation


def test_a_lonely_best_is_explained_by_noise(zoo: Zoo) -> None:
    soup = greedy_soup(shelf([zoo.tuned[0]] * 3), zoo.exam())
    assert "2 are as good as the best but add nothing beyond the noise" in soup.explanation


def test_losses_rank_upwards(zoo: Zoo) -> None:
    exam = zoo.exam(loss=True)
    soup = greedy_soup(shelf(zoo.tuned), exam)
    scores = [trial.score for trial in soup.trials]
    assert scores == sorted(scores)
    assert exam.sheet(soup.state).mean() <= scores[0]


def test_one_ingredient_is_a_soup_and_none_is_an_error(zoo: Zoo) -> None:
    soup = greedy_soup(shelf(zoo.tuned[:1]), zoo.exam())
    assert (soup.members, soup.explanation) == (("0",), "")
    with pytest.raises(InputError, match="no ingredients"):
        greedy_soup([], zoo.exam())
