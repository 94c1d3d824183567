from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from holdfast.core.errors import InputError, NoEffectError, NonFiniteError
from holdfast.weights.batchnorm import has_statistics, recalibrate, settle_statistics


def constant_batches() -> list[torch.Tensor]:
    return [torch.zeros(100, 1), torch.full((2, 1), 100.0)]


def test_batches_count_for_their_samples() -> None:
    norm = nn.BatchNorm1d(1)
    assert recalibrate(norm, constant_batches()) == 2
    assert float(norm.running_mean) == pytest.approx(200 / 102, abs=1e-5)  # batches of equal weight would give 50


@given(st.lists(st.integers(2, 30), min_size=1, max_size=8), st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_any_split_of_the_data_gives_the_same_mean(sizes: list[int], seed: int) -> None:
    data = torch.randn(sum(sizes), 3, generator=torch.Generator().manual_seed(seed))
    split, whole = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    recalibrate(split, torch.split(data, sizes))
    recalibrate(whole, [data])
    torch.testing.assert_close(split.running_mean, whole.running_mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(whole.running_mean, data.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(whole.running_var, data.var(0), rtol=1e-4, atol=1e-5)


def test_the_variance_is_the_weighted_mean_of_the_batches() -> None:
    batches = [torch.randn(n, 2) * n for n in (5, 20, 3)]
    norm = nn.BatchNorm1d(2)
    recalibrate(norm, batches)
    expected = sum(len(b) * b.var(0) for b in batches) / 28
    torch.testing.assert_close(norm.running_var, expected, rtol=1e-5, atol=1e-6)


def test_dropout_stays_off_and_every_mode_comes_back() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(1, momentum=0.3))
    model[0].train()
    model[1].eval()
    recalibrate(model, [torch.ones(50, 1)])
    assert float(model[1].running_var) == pytest.approx(0.0, abs=1e-6)  # with dropout on it would be 1
    assert (model[0].training, model[1].training, model[1].momentum) == (True, False, 0.3)


def test_weights_stay_as_they_are() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    recalibrate(model, [torch.randn(8, 2)])
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert not model[1]._forward_pre_hooks


class Pair(NamedTuple):
    image: torch.Tensor
    label: torch.Tensor


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: x,
        lambda x: (x, torch.zeros(len(x))),
        lambda x: [x, torch.zeros(len(x))],
        lambda x: {"image": x, "label": torch.zeros(len(x))},
        lambda x: {"x": x},
        lambda x: Pair(x, torch.zeros(len(x))),
    ],
)
def test_any_usual_batch_is_understood(wrap: Any) -> None:
    norm = nn.BatchNorm1d(1)
    recalibrate(norm, [wrap(batch) for batch in constant_batches()])
    assert float(norm.running_mean) == pytest.approx(200 / 102, abs=1e-5)


def test_models_of_several_inputs_take_a_forward() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(1)

        def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
            return self.norm(left + right)

    model = Sum()
    batches = [{"left": x, "right": x} for x in constant_batches()]
    recalibrate(model, batches, forward=lambda m, b: m(b["left"], right=b["right"]))
    assert float(model.norm.running_mean) == pytest.approx(400 / 102, abs=1e-5)


def test_a_layer_used_twice_averages_over_both_uses() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(1)

        def forward(self, x: torch.Tensor) -> None:
            self.norm(x)
            self.norm(x[:10] + 1.0)

    model = Twice()
    data = torch.randn(30, 1)
    recalibrate(model, [data])
    expected = (30 * data.mean() + 10 * (data[:10].mean() + 1.0)) / 40
    assert float(model.norm.running_mean) == pytest.approx(float(expected), abs=1e-5)


def test_a_last_batch_of_one_sample_is_harmless() -> None:
    data = torch.randn(9, 4)
    norm = nn.BatchNorm1d(4)
    recalibrate(norm, [data[:8], data[8:]])
    torch.testing.assert_close(norm.running_mean, data[:8].mean(0), rtol=1e-4, atol=1e-6)


def test_convolutions_weigh_by_pixels() -> None:
    small, large = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 8, 8)
    norm = nn.BatchNorm2d(3)
    recalibrate(norm, [small, large])
    torch.testing.assert_close(norm.running_mean, torch.full((3,), 0.8))


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(3, track_running_stats=False), nn.GroupNorm(1, 3), nn.Linear(3, 3)])
def test_nothing_to_do_is_an_error(layer: nn.Module) -> None:
    assert not has_statistics(layer)
    with pytest.raises(NoEffectError, match="no layer keeps running statistics"):
        recalibrate(layer, [torch.zeros(2, 3)])


@pytest.mark.parametrize("batches", [[], [torch.zeros(1, 3)]])
def test_too_little_data_is_an_error(batches: list[torch.Tensor]) -> None:
    with pytest.raises(InputError, match="gave no layer more than one value"):
        recalibrate(nn.BatchNorm1d(3), batches)


def test_infinite_statistics_name_the_layer() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    with pytest.raises(NonFiniteError, match="'1'"):
        recalibrate(model, [torch.tensor([[1.0], [math.inf]])])


# --- the policy ---------------------------------------------------------------------------------------------


def drifted() -> tuple[nn.Module, dict[str, torch.Tensor], dict[str, torch.Tensor], list[torch.Tensor]]:
    """A net whose averaged and last statistics are both off, by different amounts; the data have mean 0."""
    model = nn.Sequential(nn.BatchNorm1d(1, affine=False))
    averaged = {**model.state_dict(), "0.running_mean": torch.tensor([0.5])}
    last = {**model.state_dict(), "0.running_mean": torch.tensor([2.0])}
    return model, averaged, last, [torch.linspace(-1, 1, 64).view(-1, 1)]


def centred(model: nn.Module) -> float:
    return -abs(float(model[0].running_mean))


@pytest.mark.parametrize(("policy", "mean"), [("keep", 2.0), ("average", 0.5), ("recalibrate", 0.0), ("auto", 0.0)])
def test_policies_do_what_they_say(policy: Any, mean: float) -> None:
    model, averaged, last, data = drifted()
    state, record = settle_statistics(model, averaged, last=last, policy=policy, batches=lambda: data, score=centred)
    assert float(state["0.running_mean"]) == pytest.approx(mean, abs=1e-6)
    assert record["chosen"] == ("recalibrate" if policy == "auto" else policy)


def test_auto_measures_and_records_everything_it_could_choose() -> None:
    model, averaged, last, data = drifted()
    _, record = settle_statistics(model, averaged, last=last, batches=lambda: data, score=centred, margin=0.1)
    assert record["scores"] == pytest.approx({"average": -0.5, "keep": -2.0, "recalibrate": 0.0}, abs=1e-6)
    assert (record["policy"], record["margin"]) == ("auto", 0.1)


def test_ties_within_the_margin_follow_the_stated_order() -> None:
    model, averaged, last, data = drifted()

    def prefers_keep(candidate: nn.Module) -> float:
        return 0.01 * float(candidate[0].running_mean)

    settle = {"last": last, "batches": lambda: data, "score": prefers_keep}
    assert settle_statistics(model, averaged, **settle, margin=0.0)[1]["chosen"] == "keep"
    assert settle_statistics(model, averaged, **settle, margin=0.016)[1]["chosen"] == "average"
    assert settle_statistics(model, averaged, **settle, margin=0.1)[1]["chosen"] == "recalibrate"


def test_the_borrowed_model_gets_its_own_weights_back() -> None:
    model, averaged, last, data = drifted()
    model.train()
    settle_statistics(model, averaged, last=last, batches=lambda: data, score=centred)
    assert float(model[0].running_mean) == 0.0
    assert model.training
    assert model[0].training


def test_without_norm_layers_there_is_nothing_to_choose() -> None:
    model = nn.Linear(2, 2)
    state, record = settle_statistics(model, model.state_dict(), policy="recalibrate")
    assert record["chosen"] == "none"
    assert torch.equal(state["weight"], model.weight)


@pytest.mark.parametrize(("policy", "needed"), [("keep", "`last`"), ("recalibrate", "`batches`"), ("auto", "a score")])
def test_what_a_policy_needs_is_asked_for(policy: Any, needed: str) -> None:
    model, averaged, _, _ = drifted()
    with pytest.raises(InputError, match=f"needs {needed}"):
        settle_statistics(model, averaged, policy=policy)
