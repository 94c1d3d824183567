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
from holdfast.methods.uat import UAT
from holdfast.train.objective import Objective
from holdfast.train.terms import evaluate
from holdfast.weights.files import save

OPTIONS = {"variant": "ot", "attack": PGD(eps=8, steps=2)}
IDENTITY = {"variant": "ot", "weight": 0.0, "attack": PGD(steps=1)}
ATTACK = PGD(eps=8, steps=2)


def clean_term(task, batch):
    return Term(name="clean", views=(batch,), loss=lambda outputs: task.loss(outputs[0], batch))


def terms_of(task, model, batch, unlabelled, **options):
    step = step_of(task, model, batch, unlabelled=unlabelled, index=options.pop("index", 0))
    return UAT(**{"attack": ATTACK, **options}).rewrite([clean_term(task, batch)], step), step


@pytest.fixture
def teacher(tmp_path):
    path = tmp_path / "teacher.safetensors"
    save(path, model_of(classification(), seed=5).state_dict())
    return str(path)


def test_ot_equals_the_twin_also_with_more_unlabelled_than_labelled_samples():
    task, batch, unlabelled = classification(), images(n=4), images(n=10, seed=1)
    model, twin = model_of(task).train(), model_of(task).train()
    terms, step = terms_of(task, model, batch, unlabelled, variant="ot", weight=3.0)
    found = {}
    for name, view in (("uat_labelled", batch), ("uat_unlabelled", unlabelled)):
        reference = consistency_twins.reference_logits(twin, view["image"])
        found[name] = perturb(ATTACK, lambda z, r=reference: consistency_twins.kl(r, twin(z)), view["image"], Leaf(),
                              step.draw(name), twin)  # fmt: skip
    expected = consistency_twins.uat_ot(twin, batch["image"], batch["y"], found["uat_labelled"], unlabelled["image"],
                                        found["uat_unlabelled"], 3.0)  # fmt: skip
    torch.testing.assert_close(evaluate(terms, step.forward), expected)


def test_ft_learns_the_teachers_labels_on_attacked_inputs(teacher):
    task, batch, unlabelled = classification(), images(), images(seed=1)
    model = model_of(task).eval()
    terms, _ = terms_of(task, model, batch, unlabelled, variant="ft", teacher=teacher)
    assert [t.name for t in terms] == ["clean", "uat_teacher"]
    labels = model_of(task, seed=5).eval()(unlabelled["image"]).argmax(1)
    x_adv = terms[1].views[0]["image"]
    expected = torch.nn.functional.cross_entropy(model(x_adv), labels)
    torch.testing.assert_close(terms[1].loss((model(x_adv),)).mean(), expected)
    assert expected > torch.nn.functional.cross_entropy(model(unlabelled["image"]), labels)


def test_labels_of_the_unlabelled_stream_are_never_read(teacher):
    task, batch, unlabelled = classification(), images(), images(seed=1)
    model = model_of(task).eval()
    values = []
    for y in (unlabelled["y"], torch.full_like(unlabelled["y"], 2)):
        terms, step = terms_of(task, model, batch, {**unlabelled, "y": y}, variant="++", teacher=teacher)
        values.append(evaluate(terms, step.forward))
    assert torch.equal(*values)


def test_plus_plus_shares_one_attacked_view(teacher):
    task, batch, unlabelled = classification(), images(), images(seed=1)
    model = model_of(task)
    terms, _ = terms_of(task, model, batch, unlabelled, variant="++", teacher=teacher)
    by_name = {t.name: t for t in terms}
    assert set(by_name) == {"clean", "uat_teacher", "uat_unlabelled", "uat_labelled"}
    assert by_name["uat_teacher"].views[0] is by_name["uat_unlabelled"].views[1]


def test_the_weight_ramps_up():
    task, batch, unlabelled = classification(), images(), images(seed=1)
    weights = [
        terms_of(task, model_of(task), batch, unlabelled, variant="ot", weight=4.0, ramp_steps=4, index=i)[0][1].weight
        for i in (0, 1, 3, 9)
    ]
    assert weights == pytest.approx([0.5, 1.0, 2.0, 2.0])  # half of the samples are unlabelled


def test_joined_and_declared_passes(teacher):
    task, batch, unlabelled = classification(), images(), images(seed=1)
    for variant, counted in (("ot", 0), ("ft", 1), ("++", 1)):
        method = UAT(variant=variant, teacher=teacher, attack=ATTACK, joined=True)
        objective = Objective(task, [method], unlabelled=[unlabelled])
        model = model_of(task)
        objective(model, batch)
        assert model.samples / 6 == objective.passes()[0] - counted  # the teacher is another model


def test_refusals(tmp_path):
    task, batch = classification(), images()
    with pytest.raises(InputError, match="no unlabelled stream"):
        terms_of(task, model_of(task), batch, None, variant="ot")
    with pytest.raises(InputError, match="no teacher is named"):
        terms_of(task, model_of(task), batch, batch, variant="ft")
    with pytest.raises(InputError, match="declares no pseudo_label"):
        terms_of(classification(pseudo_label=None), model_of(task), batch, batch, variant="ft", teacher="x")
    odd = tmp_path / "odd.safetensors"
    save(odd, {"weight": torch.zeros(3)})
    with pytest.raises(InputError, match="do not fit the task's model"):
        terms_of(task, model_of(task), batch, batch, variant="ft", teacher=str(odd))
    with pytest.raises(InputError, match="ot, ft or"):
        UAT(variant="both")
