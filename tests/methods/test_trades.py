from __future__ import annotations

import consistency_twins
import pytest
import torch
from toy_tasks import classification, driving, images, model_of, regression_with_two_inputs, step_of

from holdfast.attacks.fgsm import FGSM
from holdfast.attacks.pgd import PGD
from holdfast.attacks.seal import perturb
from holdfast.core.contracts import Term
from holdfast.core.errors import InputError
from holdfast.core.space import Leaf
from holdfast.methods.adversarial import Adversarial
from holdfast.methods.trades import TRADES
from holdfast.train.objective import Objective
from holdfast.train.terms import evaluate

IDENTITY = {"beta": 0.0, "attack": PGD(steps=1)}
OPTIONS = {"attack": PGD(eps=8, steps=2)}


def clean_term(task, batch):
    return Term(name="clean", views=(batch,), loss=lambda outputs: task.loss(outputs[0], batch))


def test_equals_the_twin():
    task, batch = classification(), images()
    model, twin = model_of(task).train(), model_of(task).train()
    method = TRADES(beta=2.0, attack=PGD(eps=8, steps=3))
    step = step_of(task, model, batch)
    loss = evaluate(method.rewrite([clean_term(task, batch)], step), step.forward)
    reference = consistency_twins.reference_logits(twin, batch["image"])
    x_adv = perturb(method.attack, lambda z: consistency_twins.kl(reference, twin(z)), batch["image"], Leaf(),
                    step.draw("trades"), twin)  # fmt: skip
    expected = consistency_twins.trades(twin, batch["image"], batch["y"], x_adv, 2.0)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_its_views_are_not_attacked_again_but_the_clean_term_may_be():
    task, batch = classification(), images()
    methods = [TRADES(attack=PGD(steps=1)), Adversarial(attack=FGSM(eps=1))]
    assert Objective(task, methods)(model_of(task), batch).isfinite()
    terms = TRADES(attack=PGD(steps=1)).rewrite([clean_term(task, batch)], step_of(task, model_of(task), batch))
    assert [(t.name, t.crafted) for t in terms] == [("clean", False), ("trades", True)]
    assert terms[1].views[0] is batch


def test_needs_a_divergence():
    task, batch = regression_with_two_inputs(), driving()
    with pytest.raises(InputError, match="declares no divergence"):
        TRADES().rewrite([clean_term(task, batch)], step_of(task, model_of(task), batch))
    with pytest.raises(InputError, match="negative"):
        TRADES(beta=-1)
