from __future__ import annotations

import free_twins
import pytest
import torch
from torch import nn
from toy_tasks import classification, driving, images, model_of, regression_with_two_inputs

from holdfast.attacks.seal import Ball
from holdfast.core.errors import InputError
from holdfast.core.space import Leaf
from holdfast.methods.yopo import YOPO
from holdfast.train.objective import Objective

OPTIONS = {"first": "features.0"}
IDENTITY = {"eps": 0.0}


def prepared(task=None, **options):
    objective = Objective(task or classification(), [YOPO(**{"first": "features.0", **options})])
    return objective, objective.prepare(model_of(objective.task), images())


def test_equals_the_loop_that_accumulates():
    task, batch = classification(), images()
    objective, model = prepared(eps=8, alpha=3, passes_through=3, steps=2)
    model.eval()  # so that the twin's first and rest need not share BatchNorm passes
    twin = model_of(task).eval()
    ball = Ball.around(batch["image"], eps=8, norm="linf", leaf=Leaf())
    start = ball.start(objective._step(model, batch, None, {}).draw("yopo"))
    rest = nn.Sequential(*twin.features[1:], nn.Flatten(), twin.head)
    expected = free_twins.yopo(twin, batch["image"], batch["y"], start, twin.features[0], rest, 8 / 255, 3 / 255, 3, 2)
    loss = objective(model, batch)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    for a, b in zip(model.model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-6)


def test_attacks_and_counts_its_passes():
    objective, model = prepared(passes_through=4)
    batch = images()
    loss = objective(model, batch)
    assert model.model.samples == 4 * 6
    assert objective.passes() == (4, 4)
    assert loss > objective.task.loss(model.eval()(batch["image"]), batch).mean()


def test_refusals():
    objective, model = prepared(first="features.1")
    with pytest.raises(InputError, match="does not take the attacked leaf itself"):
        objective(model, images())
    objective, model = prepared(first="head")
    with pytest.raises(InputError, match="does not take the attacked leaf itself"):
        objective(model, images())
    task = regression_with_two_inputs()
    objective = Objective(task, [YOPO(first="image")])
    with pytest.raises(InputError, match="several leaves"):
        objective(objective.prepare(model_of(task), driving()), driving())
    with pytest.raises(InputError, match="no layer is named"):
        prepared(first="")
    with pytest.raises(InputError, match="at least one step"):
        YOPO(first="x", steps=0)
