from __future__ import annotations

import pytest
import torch
from torch import nn
from weights_zoo import Zoo, network

from holdfast.core.errors import InputError
from holdfast.weights.fisher import diagonal_fisher, merge_fisher
from holdfast.weights.tree import lerp, mean


def test_logistic_regression_has_the_textbook_value() -> None:
    torch.manual_seed(0)
    model = nn.Linear(2, 2, bias=False)
    x = torch.randn(1, 2)
    found = diagonal_fisher(model, [x.expand(6_000, 2)], samples=6_000)
    p = model(x).softmax(-1)[0].detach()
    expected = (p * (1 - p))[:, None].double() * x.double().square()  # E[(onehot - p)_i^2] x_j^2
    torch.testing.assert_close(found["weight"], expected, rtol=0.06, atol=1e-4)


def test_gradients_are_squared_sample_by_sample() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    batch = torch.tensor([[1.0], [-1.0]])
    found = diagonal_fisher(model, [batch], loss=lambda outputs, _: outputs.squeeze(1), samples=2)
    assert float(found["weight"]) == 1.0  # the batch's mean gradient is 0


def test_it_is_repeatable_and_leaves_the_model_alone(zoo: Zoo) -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = diagonal_fisher(model, zoo.held_out.inputs.split(50), samples=60, seed=3)
    again = diagonal_fisher(model, zoo.held_out.inputs.split(20), samples=60, seed=3)
    assert all(torch.allclose(first[name], again[name], rtol=1e-4) for name in first)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_equal_fisher_values_give_the_plain_average(zoo: Zoo) -> None:
    ones = {name: torch.ones_like(value) for name, value in zoo.base.items()}
    merged = merge_fisher(zoo.tuned[:3], [ones] * 3)
    plain = mean(zoo.tuned[:3])
    assert all(torch.allclose(merged[name], plain[name], atol=1e-6) for name in plain)


def test_each_weight_follows_the_model_that_cares() -> None:
    left, right = {"w": torch.tensor([0.0, 0.0])}, {"w": torch.tensor([1.0, 1.0])}
    fishers = [{"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([0.0, 3.0])}]
    merged = merge_fisher([left, right], fishers)["w"]
    torch.testing.assert_close(merged, torch.tensor([0.0, 1.0]), atol=1e-6, rtol=0)
    quarter = merge_fisher([left, right], [{"w": torch.tensor([1.0, 1.0])}] * 2, [0.75, 0.25])["w"]
    torch.testing.assert_close(quarter, lerp(left, right, 0.25)["w"])


def test_nothing_known_gives_the_plain_average() -> None:
    left, right = {"w": torch.zeros(2)}, {"w": torch.ones(2)}
    merged = merge_fisher([left, right], [{"w": torch.zeros(2)}] * 2)
    torch.testing.assert_close(merged["w"], torch.full((2,), 0.5))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="one each"):
        merge_fisher([{"w": torch.zeros(1)}], [])
    with pytest.raises(InputError, match="0 samples"):
        diagonal_fisher(nn.Linear(1, 2), [])
