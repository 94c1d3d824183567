from __future__ import annotations

import pytest
import torch
from toy_tasks import classification, images, model_of, step_of

from holdfast.core.errors import InputError
from holdfast.methods.weight_noise import WeightNoise
from holdfast.train.objective import Objective

IDENTITY = {"size": 0.0}


def test_noise_is_relative_to_each_tensor():
    task, batch = classification(), images()
    model = model_of(task)
    weights = {"big": torch.full((200, 200), 3.0), "small": torch.full((200, 200), -0.01), "bias": torch.ones(5)}
    delta = WeightNoise(size=0.02).delta(weights, lambda values: None, step_of(task, model, batch))
    assert set(delta) == {"big", "small"}
    assert delta["big"].std().item() == pytest.approx(0.06, rel=0.02)
    assert delta["small"].std().item() == pytest.approx(0.0002, rel=0.02)


def test_gradient_is_taken_at_the_noisy_weights_and_statistics_still_move():
    task, batch = classification(), images()
    model, noisy = model_of(task).train(), model_of(task).train()
    objective = Objective(task, perturbation=WeightNoise(size=0.1))
    delta = WeightNoise(size=0.1).delta(
        dict(model.named_parameters()), lambda values: None, objective._step(model, batch, None, {})
    )
    loss = objective(model, batch)
    loss.backward()
    with torch.no_grad():
        for name, p in noisy.named_parameters():
            if name in delta:
                p += delta[name]
    expected = task.loss(noisy(batch["image"]), batch).mean()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for a, b in zip(model.parameters(), noisy.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(model.features[1].running_mean, noisy.features[1].running_mean)


def test_refusal():
    with pytest.raises(InputError, match="negative"):
        WeightNoise(size=-1)
