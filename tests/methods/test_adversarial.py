from __future__ import annotations

import attack_twins
import pytest
import torch
from toy_tasks import (
    classification,
    driving,
    images,
    model_of,
    regression_with_two_inputs,
    sentences,
    step_of,
    text,
)

from holdfast.attacks.fgm import FGM
from holdfast.attacks.fgsm import FGSM
from holdfast.attacks.pgd import PGD
from holdfast.core.contracts import Term
from holdfast.core.errors import ClashError, InputError, NoEffectError
from holdfast.methods.adversarial import COUNT_EVERY, Adversarial
from holdfast.train.objective import Objective
from holdfast.train.terms import evaluate

IDENTITY = {"attack": FGSM(eps=0.0)}


def clean_term(task, batch, name="clean"):
    return Term(name=name, views=(batch,), loss=lambda outputs: task.loss(outputs[0], batch))


def hand_written(task, model, batch, eps, clean_weight):
    """The loss of FGSM training as one would write it in a loop of one's own."""
    model.eval()
    loss = lambda z: task.loss(model(z), batch)  # noqa: E731 - as in a notebook
    adv = attack_twins.fgsm(loss, batch["image"], eps / 255)
    model.train()
    # A clean forward that is not asked for would move the BatchNorm statistics.
    clean = clean_weight * task.loss(model(batch["image"]), batch).mean() if clean_weight else 0.0
    return clean + (1 - clean_weight) * task.loss(model(adv), batch).mean()


@pytest.mark.parametrize("clean_weight", [0.0, 0.5, 0.3])
def test_equals_a_hand_written_step_over_several_steps(clean_weight):
    task = classification()
    ours, theirs = model_of(task).double(), model_of(task).double()
    objective = Objective(task, [Adversarial(attack=FGSM(eps=4), clean_weight=clean_weight)])
    optimisers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (ours, theirs)]
    for i in range(3):
        batch = {**images(seed=i), "image": images(seed=i)["image"].double()}
        losses = objective(ours, batch), hand_written(task, theirs, batch, 4, clean_weight)
        torch.testing.assert_close(losses[0], losses[1])
        for loss, optimiser in zip(losses, optimisers, strict=True):
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()


def test_splits_the_term_in_two_with_its_weight():
    task, batch = classification(), images()
    model = model_of(task)
    term = clean_term(task, batch)
    terms = Adversarial(clean_weight=0.25).rewrite([term], step_of(task, model, batch))
    assert [(t.name, t.weight, t.crafted) for t in terms] == [("clean", 0.25, False), ("clean_adversarial", 0.75, True)]
    assert terms[0].views[0] is batch


def test_without_a_clean_share_the_attacked_term_keeps_the_name():
    task, batch = classification(), images()
    [term] = Adversarial(clean_weight=0).rewrite([clean_term(task, batch)], step_of(task, model_of(task), batch))
    assert (term.name, term.weight, term.crafted) == ("clean", 1.0, True)


def test_a_share_of_samples_keeps_whole_samples_clean_in_one_term():
    task, batch = classification(), images(n=64)
    method = Adversarial(attack=FGSM(eps=4), clean_weight=0.25, share_of="samples")
    term = clean_term(task, batch)
    [mixed] = method.rewrite([term], step_of(task, model_of(task), batch))
    [full] = Adversarial(attack=FGSM(eps=4), clean_weight=0).rewrite([term], step_of(task, model_of(task), batch))
    image, attacked = mixed.views[0]["image"], full.views[0]["image"]
    clean = [torch.equal(a, b) for a, b in zip(image, batch["image"], strict=True)]
    moved = [torch.equal(a, b) for a, b in zip(image, attacked, strict=True)]
    assert all(c != m for c, m in zip(clean, moved, strict=True))
    assert 4 <= sum(clean) <= 30  # 16 expected of 64 with probability 0.25
    assert (mixed.name, mixed.weight, mixed.crafted) == ("clean", 1.0, True)
    assert method.passes() == FGSM(eps=4).passes()


def test_attacks_each_term_against_its_own_loss():
    task, batch = classification(), images()
    model = model_of(task).eval()
    up = Term(name="up", views=(batch,), loss=lambda outputs: outputs[0][:, 0])
    down = Term(name="down", views=(batch,), loss=lambda outputs: -outputs[0][:, 0])
    terms = Adversarial(attack=FGSM(eps=2), on=("up", "down"), clean_weight=0).rewrite(
        [up, down], step_of(task, model, batch)
    )
    before = model(batch["image"])[:, 0]
    assert (model(terms[0].views[0]["image"])[:, 0] > before).all()
    assert (model(terms[1].views[0]["image"])[:, 0] < before).all()


def test_views_of_one_term_are_attacked_jointly():
    task, batch, other = classification(), images(), images(seed=1)
    model = model_of(task).eval()
    pair = Term(name="pair", views=(batch, other), loss=lambda o: (o[0] - o[1]).pow(2).sum(dim=1))
    [term] = Adversarial(attack=FGSM(eps=2), on=("pair",), clean_weight=0).rewrite([pair], step_of(task, model, batch))
    for before, after in zip(pair.views, term.views, strict=True):
        assert 0 < (after["image"] - before["image"]).abs().max() <= 2 / 255 + 1e-7
    outputs = [tuple(model(v["image"]) for v in t.views) for t in (pair, term)]
    assert pair.loss(outputs[1]).mean() > pair.loss(outputs[0]).mean()


def test_several_leaves_and_structured_outputs():
    task, batch = regression_with_two_inputs(), driving()
    model = model_of(task)
    before = {k: v.clone() for k, v in batch.items()}
    method = Adversarial(attack=FGSM(eps={"image": 1.0, "speed": 4.0}), clean_weight=0)
    [term] = method.rewrite([clean_term(task, batch)], step_of(task, model, batch))
    moved = {k: (term.views[0][k] - batch[k]).abs().max().item() for k in ("image", "speed")}
    assert moved == pytest.approx({"image": 1 / 255, "speed": 2.0}, rel=1e-4)
    only = Adversarial(attack=FGSM(eps=1), clean_weight=0, leaf="speed")
    [term] = only.rewrite([clean_term(task, batch)], step_of(task, model, batch))
    assert term.views[0]["image"] is batch["image"]
    assert all(torch.equal(batch[k], before[k]) for k in batch)


def test_crafts_in_eval_mode_and_trains_in_train_mode():
    task, batch = classification(), images()
    model = model_of(task).train()
    seen = []
    model.features[1].register_forward_hook(lambda module, args, out: seen.append(module.training))
    Objective(task, [Adversarial(attack=PGD(eps=1, steps=2))])(model, batch)
    assert seen == [False, False, True, True]
    assert int(model.features[1].num_batches_tracked) == 2


def test_counts_samples_without_a_gradient():
    task, batch = classification(), images()
    objective = Objective(task, [Adversarial(attack=FGSM(eps=1))])
    model = model_of(task)
    with torch.no_grad():
        model.head.weight.zero_()
    for _ in range(2):
        objective(model, batch)
        assert int(objective.state_dict()["states"][0]["zero_gradient"]) == 6


def test_samples_without_a_gradient_are_counted_in_every_so_many_steps():
    task, batch = classification(), images()
    objective = Objective(task, [Adversarial(attack=FGSM(eps=1))])
    model, counted = model_of(task), []
    for index in (1, COUNT_EVERY - 1, COUNT_EVERY):
        objective.index = index
        objective(model, batch)
        counted.append("zero_gradient" in objective.state_dict()["states"][0])
    assert counted == [False, False, True]


def test_a_fully_clean_share_attacks_nothing():
    task, batch = classification(), images()
    model, method = model_of(task), Adversarial(clean_weight=1.0)
    term = clean_term(task, batch)
    assert method.rewrite([term], step_of(task, model, batch)) == [term]
    assert model.samples == 0
    assert method.passes() == (0, 0)


def test_a_clean_graph_made_before_is_still_good():
    task, batch = classification(), images()
    model = model_of(task)
    before = task.loss(model(batch["image"]), batch).mean()
    terms = Adversarial(attack=FGSM(eps=1)).rewrite([clean_term(task, batch)], step_of(task, model, batch))
    (before + evaluate(terms, lambda view: task.forward(model, view))).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("scope", ["sample", "batch"])
def test_fgm_on_an_embedding_equals_the_closed_form_and_leaves_it_bit_exact(scope):
    task, batch = text(), sentences()
    objective = Objective(task, [Adversarial(attack=FGM(eps=0.5, scope=scope), tap="embedding", clean_weight=0.5)])
    model, twin = objective.prepare(model_of(task), batch), model_of(task)
    table = model.model.embedding.weight.detach().clone()
    loss = objective(model, batch)
    loss.backward()
    assert torch.equal(model.model.embedding.weight, table)

    def logits(embedded):
        words = torch.tanh(twin.mix(embedded)) * batch["mask"][..., None]
        return twin.head(words.sum(1) / batch["mask"].sum(1, keepdim=True))

    embedded = twin.embedding(batch["tokens"])
    (g,) = torch.autograd.grad(task.loss(logits(embedded), batch).sum(), embedded, retain_graph=True)
    norm = g.flatten(1).norm(dim=1)[:, None, None] if scope == "sample" else g.norm()
    expected = 0.5 * task.loss(logits(embedded), batch).mean()
    expected = expected + 0.5 * task.loss(logits(embedded + 0.5 * g / norm), batch).mean()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)
    for a, b in zip(model.model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-6)


def test_any_tapped_layer_may_be_attacked_also_by_samples():
    task, batch = classification(), images(n=40)
    for share_of, views in (("loss", 2), ("samples", 1)):
        method = Adversarial(attack=PGD(eps=0.1, steps=2), tap="features.0", share_of=share_of)
        objective = Objective(task, [method])
        model = objective.prepare(model_of(task), batch)
        terms = objective.terms(model, batch)
        delta = terms[-1].call["add"]["features.0"]
        assert (len(terms), delta.shape) == (views, (40, 6, 8, 8))
        assert delta.abs().max() <= 0.1
        still = (delta.flatten(1) == 0).all(dim=1).sum()
        assert 8 <= still <= 32 if share_of == "samples" else still == 0


def test_a_tap_needs_a_prepared_model_and_its_right_name():
    task, batch = text(), sentences()
    objective = Objective(task, [Adversarial(attack=FGM(), tap="embeding")])
    with pytest.raises(InputError, match="did you mean 'embedding'"):
        objective.prepare(model_of(task), batch)
    step, term = step_of(task, model_of(task), batch), clean_term(task, batch)
    with pytest.raises(InputError, match="not prepared for taps"):
        Adversarial(attack=FGM(), tap="embedding").rewrite([term], step)
    with pytest.raises(InputError, match="leaf and tap"):
        Adversarial(leaf="image", tap="embedding")


def test_refusals():
    task, batch = classification(), images()
    step, term = step_of(task, model_of(task), batch), clean_term(task, batch)
    with pytest.raises(NoEffectError, match=r"no term named 'mixed' among \['clean'\]"):
        Adversarial(on=("mixed",)).rewrite([term], step)
    with pytest.raises(NoEffectError, match="names no term"):
        Adversarial(on=()).rewrite([term], step)
    with pytest.raises(ClashError, match="crafted already"):
        Adversarial().rewrite(Adversarial(clean_weight=0).rewrite([term], step), step)
    with pytest.raises(InputError, match="'speed' is not in"):
        Adversarial(leaf="speed").rewrite([term], step)
    with pytest.raises(InputError, match="is no share"):
        Adversarial(clean_weight=1.5)
