from __future__ import annotations

import pytest
import sharpness_twins
import torch
from toy_tasks import classification, images, model_of, step_of

from holdfast.core.errors import InputError
from holdfast.methods.awp import AWP
from holdfast.train.objective import Objective

IDENTITY = {"gamma": 0.0}


def test_equals_the_twin():
    task, batch = classification(), {**images(), "image": images()["image"].double()}
    ours, theirs = model_of(task).double().train(), model_of(task).double().train()
    loss = Objective(task, perturbation=AWP(gamma=0.05))(ours, batch)
    loss.backward()
    expected = sharpness_twins.awp(theirs, lambda: task.loss(theirs(batch["image"]), batch).mean(), 0.05)
    torch.testing.assert_close(loss, expected)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-9)


def test_each_layer_moves_by_the_same_share_and_vectors_stay():
    task, batch = classification(), images()
    model = model_of(task)
    parameters = dict(model.named_parameters())
    loss = lambda values: task.loss(torch.func.functional_call(model, values, batch["image"]), batch).mean()  # noqa: E731 - used once
    delta = AWP(gamma=0.03).delta(parameters, loss, step_of(task, model, batch))
    assert set(delta) == {"features.0.weight", "head.weight"}
    for name, value in delta.items():
        assert (value.norm() / parameters[name].norm()).item() == pytest.approx(0.03, rel=1e-4)


def test_begins_late():
    task, batch = classification(), images()
    model = model_of(task)
    method = AWP(start_step=5)
    assert method.delta({}, lambda values: None, step_of(task, model, batch, index=4)) == {}
    with pytest.raises(InputError, match="no negative numbers"):
        AWP(gamma=-1)
