from __future__ import annotations

import pytest
import sharpness_twins
import torch
from toy_tasks import classification, images, model_of

from holdfast.attacks.fgsm import FGSM
from holdfast.core.errors import InputError
from holdfast.methods.adversarial import Adversarial
from holdfast.methods.sam import SAM
from holdfast.train.objective import Objective

IDENTITY = {"rho": 0.0}


@pytest.mark.parametrize("adaptive", [False, True])
def test_equals_the_twin_over_several_steps(adaptive):
    task = classification()
    ours, theirs = model_of(task).double(), model_of(task).double()
    rho = 1.0 if adaptive else 0.1
    objective = Objective(task, perturbation=SAM(rho=rho, adaptive=adaptive))
    optimisers = [torch.optim.SGD(m.parameters(), lr=0.05) for m in (ours, theirs)]
    for i in range(3):
        batch = {**images(seed=i), "image": images(seed=i)["image"].double()}
        for optimiser in optimisers:
            optimiser.zero_grad()
        loss = objective(ours, batch)
        loss.backward()
        theirs.train()
        expected = sharpness_twins.sam(theirs, lambda b=batch: task.loss(theirs(b["image"]), b).mean(), rho, adaptive)
        torch.testing.assert_close(loss, expected)
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-9)
        for optimiser in optimisers:
            optimiser.step()


def test_statistics_move_once_at_the_weights_themselves():
    task, batch = classification(), images()
    model, plain = model_of(task).train(), model_of(task).train()
    Objective(task, perturbation=SAM(rho=0.5))(model, batch)
    plain(batch["image"])
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, dict(plain.named_buffers())[name])


def test_every_few_steps():
    task, model = classification(), model_of(classification())
    objective = Objective(task, perturbation=SAM(every=3))
    seen = []
    for i in range(6):
        before = model.samples
        objective(model, images(seed=i))
        seen.append((model.samples - before) // 6)
    assert seen[1:] == [1, 1, 2, 1, 1]  # the first step also looks for checkpointed layers
    assert objective.passes() == pytest.approx((4 / 3, 4 / 3))


def test_sees_the_same_attacked_inputs_at_both_points():
    task, batch = classification(), images()
    model = model_of(task).eval()
    objective = Objective(task, [Adversarial(attack=FGSM(eps=4), clean_weight=0)], perturbation=SAM(rho=0.05))
    views = []
    original = task.forward
    object.__setattr__(
        task, "forward", lambda m, view, **call: views.append(view["image"]) or original(m, view, **call)
    )
    objective(model, batch)
    assert torch.equal(views[-1], views[-2])
    assert not torch.equal(views[-1], batch["image"])


def test_refusal():
    with pytest.raises(InputError, match="every >= 1"):
        SAM(every=0)
