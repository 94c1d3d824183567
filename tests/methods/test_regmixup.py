from __future__ import annotations

import pytest
import torch
from toy_tasks import classification, images, model_of, step_of

from holdfast.attacks.fgsm import FGSM
from holdfast.core.contracts import Term
from holdfast.core.errors import ClashError, InputError, NoEffectError
from holdfast.methods.adversarial import Adversarial
from holdfast.methods.mixing import on_host, partners
from holdfast.methods.mixup import Mixup
from holdfast.methods.regmixup import RegMixup
from holdfast.train.objective import Objective
from holdfast.train.terms import evaluate

IDENTITY = {"weight": 0.0}


def published(model, batch, lam, order):
    """One joined forward and the mean over both halves, as the published code has it."""
    x, y = batch["image"], batch["y"]
    logits = model(torch.cat([x, lam * x + (1 - lam) * x[order]]))
    a, b = torch.cat([y, y]), torch.cat([y, y[order]])
    ce = torch.nn.functional.cross_entropy
    return lam * ce(logits, a) + (1 - lam) * ce(logits, b)


@pytest.mark.parametrize("joined", [False, True])
def test_equals_the_published_form_up_to_its_factor_of_two(joined):
    task, batch = classification(), images()
    model, twin = model_of(task), model_of(task)
    model.train(joined)
    twin.train(joined)  # joined: both halves share one BatchNorm pass
    step = step_of(task, model, batch)
    term = Term(name="clean", views=(batch,), loss=lambda outputs: task.loss(outputs[0], batch))
    loss = evaluate(RegMixup(alpha=3, joined=joined).rewrite([term], step), step.forward)
    draw = step.draw("regmixup")
    lam, order = on_host(draw).betavariate(3, 3), partners(6, draw)
    torch.testing.assert_close(loss, 2 * published(twin, batch, lam, order))
    assert model.features[1].num_batches_tracked == twin.features[1].num_batches_tracked


def test_adds_to_the_clean_term_with_its_own_weight():
    task, batch = classification(), images()
    term = Term(name="clean", views=(batch,), loss=lambda o: task.loss(o[0], batch), weight=0.5)
    terms = RegMixup(weight=3.0).rewrite([term], step_of(task, model_of(task), batch))
    assert terms[0] is term
    assert (terms[1].name, terms[1].weight, terms[1].joins) == ("regmixup", 1.5, None)


def test_composes_with_attacks_on_the_clean_or_on_the_mixed_term():
    task, batch = classification(), images()
    for on in ("clean", "regmixup"):
        methods = [RegMixup(), Adversarial(attack=FGSM(eps=2), on=(on,), clean_weight=0)]
        loss = Objective(task, methods)(model_of(task), batch)
        assert loss.isfinite()
    with pytest.raises(NoEffectError):
        Objective(task, [Adversarial(on=("regmixup",)), RegMixup()])(model_of(task), batch)


def test_refusals():
    task, batch = classification(), images()
    with pytest.raises(ClashError, match="takes the clean term away"):
        Objective(task, [RegMixup(), Mixup()])
    pair = Term(name="clean", views=(batch, batch), loss=lambda o: o[0])
    with pytest.raises(InputError, match="2 views"):
        RegMixup().rewrite([pair], step_of(task, model_of(task), batch))
    with pytest.raises(InputError, match="positive"):
        RegMixup(alpha=0)
