from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn
from weights_zoo import Zoo, network

from holdfast.core.errors import InputError, NonFiniteError
from holdfast.weights.learned import LearnedRules, learned_soup


def batches(zoo: Zoo) -> Callable[[], Iterable[tuple[Tensor, Tensor]]]:
    data = zoo.held_out
    return lambda: zip(data.inputs.split(128), data.labels.split(128), strict=True)


def cross_entropy(forward: Callable[..., Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(forward(batch[0]), batch[1], reduction="none")


@pytest.mark.parametrize("per_layer", [False, True])
def test_the_loss_falls_and_the_weights_are_what_the_coefficients_say(zoo: Zoo, per_layer: bool) -> None:
    hurt = {name: value + 0.3 * torch.randn_like(value) for name, value in zoo.tuned[0].items()}
    rules = LearnedRules(per_layer=per_layer, epochs=10)
    soup, record = learned_soup(network(), [zoo.tuned[0], hurt], batches(zoo), cross_entropy, rules=rules)
    assert record["loss_last"] < record["loss_first"]
    shares = record["coefficients"]["2.weight"] if per_layer else record["coefficients"]
    assert sum(shares) == pytest.approx(1.0, abs=1e-5)
    torch.testing.assert_close(
        soup["2.weight"], shares[0] * zoo.tuned[0]["2.weight"] + shares[1] * hurt["2.weight"], rtol=1e-4, atol=1e-5
    )
    if not per_layer:
        assert shares[0] > 0.9


def test_it_starts_from_the_uniform_soup(zoo: Zoo) -> None:
    soup, record = learned_soup(
        network(), zoo.tuned[:3], batches(zoo), cross_entropy, rules=LearnedRules(epochs=1, lr=0.0)
    )
    assert record["coefficients"] == pytest.approx([1 / 3] * 3, abs=1e-5)
    expected = sum(state["0.weight"] for state in zoo.tuned[:3]) / 3
    torch.testing.assert_close(soup["0.weight"], expected, rtol=1e-5, atol=1e-6)


def test_a_logit_scale_may_be_learned(zoo: Zoo) -> None:
    rules = LearnedRules(logit_scale=True, epochs=5)
    _, record = learned_soup(network(), zoo.tuned[:2], batches(zoo), cross_entropy, rules=rules)
    assert record["learned_logit_scale"] != 1.0
    _, record = learned_soup(network(), zoo.tuned[:2], batches(zoo), cross_entropy)
    assert record["learned_logit_scale"] == 1.0


def test_statistics_and_ties_are_mixed_too() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.BatchNorm1d(3), nn.Linear(3, 3, bias=False))
    model[2].weight = model[0].weight
    left = {name: value.clone() for name, value in model.state_dict().items()}
    right = {name: value + 1 for name, value in left.items()}
    left["2.weight"], right["2.weight"] = left["0.weight"], right["0.weight"]
    data = [(torch.randn(16, 3), torch.zeros(16, dtype=torch.int64))]
    soup, record = learned_soup(model, [left, right], lambda: data, cross_entropy)
    share = record["coefficients"][1]
    torch.testing.assert_close(soup["1.running_mean"], torch.full((3,), share), rtol=1e-4, atol=1e-5)
    assert soup["0.weight"] is soup["2.weight"]
    assert int(soup["1.num_batches_tracked"]) in (0, 1)


def test_the_model_stays_as_it_was(zoo: Zoo) -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    learned_soup(model, zoo.tuned[:2], batches(zoo), cross_entropy)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_cannot_be_learned_is_refused(zoo: Zoo) -> None:
    with pytest.raises(InputError, match="no ingredients"):
        learned_soup(network(), [], batches(zoo), cross_entropy)
    with pytest.raises(InputError, match="no batches"):
        learned_soup(network(), zoo.tuned[:2], list, cross_entropy)
    with pytest.raises(NonFiniteError):
        learned_soup(network(), zoo.tuned[:2], batches(zoo), lambda f, b: cross_entropy(f, b) * float("nan"))
