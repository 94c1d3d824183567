from __future__ import annotations

import pytest
import torch
from toy_tasks import classification, driving, images, model_of, regression_with_two_inputs, step_of

from holdfast.core.contracts import Term
from holdfast.core.errors import InputError
from holdfast.methods.mixing import on_host, partners
from holdfast.methods.mixup import Mixup

IDENTITY = "every Beta(alpha, alpha) mixes; alpha to 0 only tends to choosing one of two samples"


def test_replaces_the_term_by_the_mixture():
    task, batch = classification(), images()
    model = model_of(task).eval()
    step = step_of(task, model, batch)
    term = Term(name="clean", views=(batch,), loss=lambda outputs: task.loss(outputs[0], batch))
    [mixed] = Mixup(alpha=0.4).rewrite([term], step)
    draw = step.draw("mixup")
    lam, order = on_host(draw).betavariate(0.4, 0.4), partners(6, draw)
    x, y = batch["image"], batch["y"]
    logits = model(lam * x + (1 - lam) * x[order])
    ce = torch.nn.functional.cross_entropy
    torch.testing.assert_close(
        mixed.loss((model(mixed.views[0]["image"]),)).mean(), lam * ce(logits, y) + (1 - lam) * ce(logits, y[order])
    )
    assert mixed.name == "clean"


def test_mixes_all_leaves_with_the_same_partner():
    task, batch = regression_with_two_inputs(), driving()
    term = Term(name="clean", views=(batch,), loss=lambda outputs: task.loss(outputs[0], batch))
    step = step_of(task, model_of(task), batch)
    [mixed] = Mixup(alpha=1).rewrite([term], step)
    draw = step.draw("mixup")
    lam, order = on_host(draw).betavariate(1, 1), partners(6, draw)
    for leaf in ("image", "speed"):
        torch.testing.assert_close(mixed.views[0][leaf], lam * batch[leaf] + (1 - lam) * batch[leaf][order])
    assert mixed.views[0]["steer"] is batch["steer"]


def test_refusal():
    with pytest.raises(InputError, match="not positive"):
        Mixup(alpha=0)
