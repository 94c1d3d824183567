from __future__ import annotations

import pytest
import torch
from toy_tasks import classification, driving, images, model_of, regression_with_two_inputs

from holdfast.attacks.fgsm import FGSM
from holdfast.core.errors import ClashError, InputError
from holdfast.methods.adversarial import Adversarial
from holdfast.methods.regmixup import RegMixup
from holdfast.methods.rotation import PRETEXTS, Rotation
from holdfast.train.objective import Objective

IDENTITY = {"weight": 0.0}


def prepared(*methods, task=None, batch=None):
    objective = Objective(task or classification(), methods)
    return objective, objective.prepare(model_of(objective.task), batch or images())


def test_equals_a_loop_over_the_four_rotations():
    objective, model = prepared(Rotation(weight=0.5))
    model.eval()
    batch = images()
    loss = objective(model, batch)
    inner, head = model.model, model.heads["rotation"]
    expected = objective.task.loss(inner(batch["image"]), batch).mean()
    turns = []
    for image in batch["image"]:
        for k in range(4):
            features = inner.features(torch.rot90(image, k, (1, 2))[None]).flatten(1)
            turns.append(torch.nn.functional.cross_entropy(head(features), torch.tensor([k])))
    torch.testing.assert_close(loss, expected + 0.5 * torch.stack(turns).mean())
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_the_cheap_form_turns_each_image_once():
    task, batch = classification(), images(n=64)
    objective, model = prepared(Rotation(copies="one"), task=task, batch=batch)
    [_, term] = objective.terms(model, batch)
    turned = term.views[0]["image"]
    kinds = [next(k for k in range(4) if torch.equal(t, x.rot90(k, (1, 2)))) for x, t in zip(batch["image"], turned)]  # noqa: B905 - equal by construction
    assert set(kinds) == {0, 1, 2, 3}
    logits = torch.randn(64, 4)
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(kinds), reduction="none")
    torch.testing.assert_close(term.loss(((None, {"rotation": logits}),)), expected)


def test_pretexts():
    image = torch.rand(2, 3, 4, 6)
    flips = PRETEXTS["flip"](image)
    assert torch.equal(flips[3], image.flip(2).flip(3))
    quadrants = PRETEXTS["patch"](image)
    assert [q.shape for q in quadrants] == [image.shape] * 4
    corners = [image[..., 0, 0], image[..., 0, -1], image[..., -1, 0], image[..., -1, -1]]
    outer = [(0, 0), (0, -1), (-1, 0), (-1, -1)]
    for quadrant, corner, (i, j) in zip(quadrants, corners, outer, strict=True):
        torch.testing.assert_close(quadrant[..., i, j], corner)
    for name in PRETEXTS:
        assert prepared(Rotation(pretext=name))[0].methods[0].pretext == name


def test_an_attack_may_use_the_heads_loss_as_in_the_paper():
    attacks = Adversarial(attack=FGSM(eps=4), on=("clean", "rotation"), clean_weight=0)
    objective, model = prepared(Rotation(), attacks)
    model.eval()
    batch = images()
    terms = {t.name: t for t in objective.terms(model, batch)}
    [plain] = [t for t in prepared(Rotation())[0].methods[0].rewrite([], objective._step(model, batch, None, {}))]
    losses = [
        t.loss((model(t.views[0]["image"], heads=("rotation",)),)).mean().item() for t in (plain, terms["rotation"])
    ]
    assert losses[1] > losses[0]
    assert terms["rotation"].crafted


def test_the_model_must_be_prepared_and_is_stripped_of_the_head():
    objective, model = prepared(Rotation())
    with pytest.raises(InputError, match=r"objective\.prepare"):
        objective(model.model, images())
    assert objective.strip(model) is model.model


def test_refusals():
    wide = {**images(), "image": torch.rand(6, 3, 8, 12)}
    objective, model = prepared(Rotation())
    with pytest.raises(ClashError, match="8x12 cannot be rotated"):
        objective(model, wide)
    task = regression_with_two_inputs()
    objective = Objective(task, [Rotation(tap="head:input")])
    model = objective.prepare(model_of(task), driving())
    with pytest.raises(InputError, match="several leaves"):
        objective(model, driving())
    objective = Objective(task, [Rotation(tap="head:input", leaf="image")])
    assert objective(objective.prepare(model_of(task), driving()), driving()).isfinite()
    with pytest.raises(InputError, match="use one of"):
        Rotation(pretext="jigsaw")


@pytest.fixture
def process_group():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_trains_under_ddp_that_looks_for_unused_weights(process_group):
    """It takes for unused what the last forward before the backward did not reach."""
    objective, model = prepared(Rotation())
    wrapped = torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
    objective(wrapped, images()).backward()
    found = [p.grad.clone() for p in model.parameters()]
    other, twin = prepared(Rotation())
    other(twin, images()).backward()
    torch.testing.assert_close(found, [p.grad for p in twin.parameters()])


def test_a_joined_mixture_of_its_term_is_one_forward():
    objective, model = prepared(Rotation(), RegMixup(on="rotation", joined=True))
    assert objective(model, images()).isfinite()
