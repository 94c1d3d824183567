from __future__ import annotations

import pytest
import torch
from toy_tasks import classification, driving, images, model_of, regression_with_two_inputs

from holdfast.core.errors import InputError
from holdfast.surgery.output_scale import OutputScale
from holdfast.train.objective import Objective


def test_a_centred_model_starts_at_zero_and_scales_what_it_learns():
    task, batch = classification(), images()
    model = model_of(task)
    start = model_of(task).eval()
    scaled = OutputScale(alpha=10.0).apply(model, (batch["image"],)).eval()
    assert torch.equal(scaled(batch["image"]), torch.zeros(6, 3))
    with torch.no_grad():
        model.head.bias += 0.5
    torch.testing.assert_close(scaled(batch["image"]), torch.full((6, 3), 5.0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(batch["image"]) - start(batch["image"]), torch.full((6, 3), 0.5))


def test_only_the_model_is_trained_and_the_start_sees_the_same_batches():
    task, batch = classification(), images()
    scaled = OutputScale(alpha=3.0).apply(model_of(task), (batch["image"],)).train()
    task.loss(scaled(batch["image"]), batch).mean().backward()
    assert all(p.grad is not None for p in scaled.model.parameters())
    assert all(p.grad is None for p in scaled.start.parameters())
    assert torch.equal(scaled.start.features[1].running_mean, scaled.model.features[1].running_mean)
    assert torch.equal(scaled(batch["image"]), torch.zeros(6, 3))  # centred in training mode, too
    assert [m.dropout.training for m in (scaled.model, scaled.start)] == [True, False]
    assert not any(m.training for m in scaled.eval().modules())


def test_large_factors_are_lazy():
    task, batch = classification(), images(n=32)
    travel = {}
    for alpha in (1.0, 30.0):
        model = model_of(task)
        before = model.features[0].weight.detach().clone()
        objective = Objective(task, surgery=(OutputScale(alpha=alpha),))
        scaled = objective.prepare(model, batch)
        optimiser = torch.optim.SGD(scaled.parameters(), lr=0.03 / alpha**2)
        for _ in range(40):
            optimiser.zero_grad()
            objective.backward(scaled, batch)
            optimiser.step()
        assert objective(scaled, batch).item() < 1.07  # from log(3) = 1.10
        travel[alpha] = ((model.features[0].weight - before).norm() / before.norm()).item()
    assert travel[30.0] < travel[1.0] / 5


def test_without_a_start_and_with_structured_outputs():
    task, batch = regression_with_two_inputs(), driving()
    model = model_of(task)
    inputs = (batch["image"], batch["speed"])
    scaled = OutputScale(alpha=2.0, centred=False).apply(model, inputs)
    torch.testing.assert_close(scaled(*inputs)["steer"], 2 * model(*inputs)["steer"])
    centred = OutputScale(alpha=2.0).apply(model, inputs)
    assert centred(*inputs)["steer"].abs().max() == 0
    assert OutputScale().strip(scaled) is scaled


def test_refusal():
    with pytest.raises(InputError, match="not positive"):
        OutputScale(alpha=0)
