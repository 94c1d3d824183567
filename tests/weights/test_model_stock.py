from __future__ import annotations

import math

import pytest
import torch
from weights_zoo import Zoo

from holdfast.core.errors import InputError
from holdfast.weights.model_stock import merge_model_stock


def at_angle(cosine: float) -> tuple[dict[str, torch.Tensor], list[dict[str, torch.Tensor]]]:
    anchor = torch.tensor([3.0, -1.0])
    steps = [torch.tensor([1.0, 0.0]), torch.tensor([cosine, math.sqrt(1 - cosine**2)])]
    return {"w": anchor}, [{"w": anchor + step} for step in steps]


@pytest.mark.parametrize("cosine", [0.0, 0.3, 0.7, 1.0])
def test_two_models_follow_the_formula(cosine: float) -> None:
    anchor, states = at_angle(cosine)
    merged, record = merge_model_stock(anchor, states)
    t = 2 * cosine / (1 + cosine)
    assert record["ratio"]["w"] == pytest.approx(t, abs=1e-4)
    mean = (states[0]["w"] + states[1]["w"]) / 2
    torch.testing.assert_close(merged["w"], t * mean + (1 - t) * anchor["w"])


def test_opposed_models_fall_back_to_the_anchor() -> None:
    merged, record = merge_model_stock({"w": torch.zeros(2)}, [{"w": torch.ones(2)}, {"w": -torch.ones(2)}])
    assert record["ratio"]["w"] == 0.0
    assert torch.equal(merged["w"], torch.zeros(2))


def test_a_tensor_that_did_not_move_stays() -> None:
    anchor = {"w": torch.randn(3), "n": torch.tensor(1)}
    merged, _ = merge_model_stock(anchor, [dict(anchor), dict(anchor)])
    assert torch.equal(merged["w"], anchor["w"])
    assert int(merged["n"]) == 1


def test_it_is_at_least_as_good_as_its_ingredients_here(zoo: Zoo) -> None:
    exam = zoo.exam(loss=True)
    merged, _ = merge_model_stock(zoo.base, zoo.tuned[:2])
    individual = [exam.sheet(state).mean() for state in (zoo.base, *zoo.tuned[:2])]
    assert exam.sheet(merged).mean() < max(individual)


def test_one_model_is_too_few() -> None:
    with pytest.raises(InputError, match="two are the least"):
        merge_model_stock({"w": torch.zeros(1)}, [{"w": torch.ones(1)}])
