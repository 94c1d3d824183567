from __future__ import annotations

import consistency_twins
import pytest
import torch
from toy_tasks import classification, images, model_of, step_of

from holdfast.attacks.seal import perturb
from holdfast.core.contracts import Term
from holdfast.core.errors import InputError
from holdfast.core.space import Leaf
from holdfast.methods.vat import VAT
from holdfast.train.terms import evaluate

IDENTITY = {"weight": 0.0}


def clean_term(task, batch):
    return Term(name="clean", views=(batch,), loss=lambda outputs: task.loss(outputs[0], batch))


def test_equals_the_twin_and_the_reference_has_no_gradient():
    # One power iteration on a divergence near zero magnifies rounding: float64.
    task, batch = classification(), {**images(), "image": images()["image"].double()}
    model, twin = model_of(task).double().train(), model_of(task).double().train()
    step = step_of(task, model, batch)
    method = VAT(weight=3.0)
    loss = evaluate(method.rewrite([clean_term(task, batch)], step), step.forward)
    reference = consistency_twins.reference_logits(twin, batch["image"])
    x_adv = perturb(method.attack, lambda z: consistency_twins.kl(reference, twin(z)), batch["image"], Leaf(),
                    step.draw("vat"), twin)  # fmt: skip
    expected = consistency_twins.vat(twin, batch["image"], batch["y"], x_adv, 3.0)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_the_virtual_direction_beats_a_random_one():
    task, batch = classification(), images(n=64)
    model = model_of(task).eval()
    step = step_of(task, model, batch)
    [_, term] = VAT().rewrite([clean_term(task, batch)], step)
    clean = model(batch["image"])
    found = consistency_twins.kl(clean, model(term.views[1]["image"]))
    noise = torch.randn(batch["image"].shape, generator=torch.Generator().manual_seed(1))
    noise /= noise.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    random = consistency_twins.kl(clean, model((batch["image"] + noise).clamp(0, 1)))
    assert found.mean() > 2 * random.mean()


def test_on_unlabelled_data():
    task, batch, unlabelled = classification(), images(), images(seed=1)
    step = step_of(task, model_of(task), batch, unlabelled=unlabelled)
    terms = VAT(data="both").rewrite([clean_term(task, batch)], step)
    assert [t.name for t in terms] == ["clean", "vat", "vat_unlabelled"]
    assert terms[2].views[0] is unlabelled
    with pytest.raises(InputError, match="no unlabelled stream"):
        VAT(data="unlabelled").rewrite([clean_term(task, batch)], step_of(task, model_of(task), batch))
    with pytest.raises(InputError, match="labelled, unlabelled or both"):
        VAT(data="some")
