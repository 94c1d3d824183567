from __future__ import annotations

import consistency_twins
import pytest
import torch
from toy_tasks import classification, images, model_of, step_of

from holdfast.attacks.pgd import PGD
from holdfast.attacks.seal import perturb
from holdfast.core.contracts import Term
from holdfast.core.errors import InputError
from holdfast.core.space import Leaf
from holdfast.methods.rst import RST
from holdfast.train.objective import Objective
from holdfast.train.terms import evaluate
from holdfast.weights.files import save

IDENTITY = {"weight": 0.0}


def make_options(folder):
    return {"teacher": teacher_path(folder), "attack": PGD(eps=8, steps=2)}


def teacher_path(folder):
    path = folder / "teacher.safetensors"
    save(path, model_of(classification(), seed=5).state_dict())
    return str(path)


def test_equals_the_twin(tmp_path):
    task, batch, unlabelled = classification(), images(), images(seed=1)
    model, twin = model_of(task).train(), model_of(task).train()
    step = step_of(task, model, batch, unlabelled=unlabelled)
    attack = PGD(eps=8, steps=2)
    term = Term(name="clean", views=(batch,), loss=lambda outputs: task.loss(outputs[0], batch))
    method = RST(weight=0.5, beta=2.0, teacher=teacher_path(tmp_path), attack=attack)
    loss = evaluate(method.rewrite([term], step), step.forward)
    reference = consistency_twins.reference_logits(twin, unlabelled["image"])
    u_adv = perturb(attack, lambda z: consistency_twins.kl(reference, twin(z)), unlabelled["image"], Leaf(),
                    step.draw("rst"), twin)  # fmt: skip
    labels = model_of(task, seed=5).eval()(unlabelled["image"]).argmax(1)
    x, y, u = batch["image"], batch["y"], unlabelled["image"]
    torch.testing.assert_close(loss, consistency_twins.rst(twin, x, y, u, labels, u_adv, 0.5, 2.0))


def test_declared_passes(tmp_path):
    task, batch = classification(), images()
    objective = Objective(task, [RST(teacher=teacher_path(tmp_path), attack=PGD(steps=2))], unlabelled=[images(seed=1)])
    model = model_of(task)
    objective(model, batch)
    assert model.samples / 6 == objective.passes()[0] - 1  # the teacher is another model


def test_refusals():
    with pytest.raises(InputError, match="no negative weights"):
        RST(beta=-1)
    task, batch = classification(), images()
    with pytest.raises(InputError, match="no teacher is named"):
        RST().rewrite([], step_of(task, model_of(task), batch, unlabelled=batch))
