"""Forwards that go through somebody else first."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from holdfast.surgery.visited import Visit, visited


def doubled(module: nn.Module, forward: Visit, *args: Any) -> Tensor:
    assert isinstance(module, nn.Linear)
    result: Tensor = 2 * forward(*args)
    return result


def test_the_visitor_answers_within_and_the_module_after() -> None:
    model, x = nn.Sequential(nn.Linear(3, 2), nn.ReLU()), torch.ones(1, 3)
    plain = model(x)
    with visited([model[0]], doubled):
        torch.testing.assert_close(model(x), 2 * plain)
    assert torch.equal(model(x), plain)
    assert "forward" not in model[0].__dict__


def test_a_forward_that_was_replaced_before_is_visited_and_comes_back() -> None:
    layer, x = nn.Linear(3, 2), torch.ones(1, 3)

    def ones(x: Tensor) -> Tensor:
        return torch.ones(len(x), 2)

    layer.forward = ones  # type: ignore[method-assign]  # as a wrapper of somebody else does
    with visited([layer], doubled):
        assert layer(x).tolist() == [[2.0, 2.0]]
    assert layer.forward is ones


def test_an_error_within_leaves_the_module_as_it_was() -> None:
    layer = nn.Linear(3, 2)
    with pytest.raises(RuntimeError, match="shapes"), visited([layer], doubled):
        layer(torch.ones(1, 4))
    assert "forward" not in layer.__dict__
