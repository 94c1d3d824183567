from __future__ import annotations

import pytest
import torch
from toy_tasks import classification, driving, images, model_of, regression_with_two_inputs, sentences, text

from holdfast.attacks.aim import UNBOUNDED, at_inputs, at_tap
from holdfast.attacks.apgd import APGD
from holdfast.attacks.pgd import PGD
from holdfast.attacks.seal import perturb
from holdfast.core.errors import InputError

LABELLED = {"labels": lambda batch: batch["y"], "failed": lambda outputs, batch: outputs.argmax(1) != batch["y"]}


def draws():
    return torch.Generator().manual_seed(0)


def test_an_aim_is_the_tasks_loss_of_the_leaves():
    task, batch = classification(**LABELLED), images()
    model = model_of(task).eval()
    aim = at_inputs(task, model, batch)
    moved = {"image": batch["image"] * 0.5}
    torch.testing.assert_close(aim(moved), task.loss(model(moved["image"]), batch))
    rows = torch.tensor([4, 1])
    torch.testing.assert_close(aim.take(rows)({"image": moved["image"][rows]}), aim(moved)[rows])
    assert torch.equal(aim.labels, batch["y"])
    assert torch.equal(aim.broken(moved, aim.outputs(moved)), model(moved["image"]).argmax(1) != batch["y"])
    assert at_inputs(task, model, batch, leave=False).broken(moved, aim.outputs(moved)) is None


def test_several_leaves_are_attacked_jointly_and_samples_leave():
    task, batch = regression_with_two_inputs(), driving(n=8)
    model = model_of(task)
    start = task.loss(model(batch["image"], batch["speed"]), batch).detach()
    threshold = float(start.median()) * 1.1
    task = regression_with_two_inputs()
    object.__setattr__(
        task, "failed", lambda outputs, batch: (outputs["steer"] - batch["steer"]).pow(2).sum(1) > threshold
    )
    adv = perturb(APGD(eps=8.0, steps=20), at_inputs(task, model, batch), task.space.values(batch),
                  task.space.leaves, draws(), model)  # fmt: skip
    assert set(adv) == {"image", "speed"}
    attacked = {**batch, **adv}
    after = task.loss(model(attacked["image"], attacked["speed"]), attacked)
    already = start > threshold
    assert (after[~already] > start[~already]).all()
    assert (adv["image"][~already] != batch["image"][~already]).any()
    assert (adv["speed"][~already] != batch["speed"][~already]).any()
    assert ((adv["speed"] - batch["speed"]).abs() <= 8 * 0.5 + 1e-4).all()


@pytest.mark.parametrize("tap", ["embedding", "mix:input", "mix"])
def test_an_inner_tensor_is_attacked_on_an_unprepared_model(tap):
    task, batch = text(), sentences()
    model = model_of(task).eval()
    aim, zeros = at_tap(task, model, batch, tap, leave=False)
    clean = task.loss(task.forward(model, batch), batch)
    torch.testing.assert_close(aim(zeros), clean)
    delta = perturb(PGD(eps=0.2, steps=5, norm="l2"), aim, zeros, UNBOUNDED, draws(), model)
    assert (aim(delta) > clean).all()
    assert (delta.flatten(1).norm(dim=1) <= 0.2 * (1 + 1e-5)).all()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    rows = torch.tensor([3, 0])
    torch.testing.assert_close(aim.take(rows)(delta[rows]), aim(delta)[rows])


def test_an_unknown_layer_names_the_nearest():
    task, batch = text(), sentences()
    with pytest.raises(InputError, match="did you mean 'embedding'"):
        at_tap(task, model_of(task), batch, "embeding")


def test_a_layer_without_a_batch_is_refused():
    task, batch = text(), sentences()
    model = model_of(task)
    model.extra = torch.nn.Identity()
    forward = model.forward
    model.forward = lambda tokens, mask: forward(tokens, mask) + model.extra(torch.zeros(1))
    with pytest.raises(InputError, match="without an entry for each sample"):
        at_tap(task, model, batch, "extra")
