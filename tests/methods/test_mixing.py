from __future__ import annotations

import pytest
import torch
from toy_tasks import classification, cross_entropy, images, model_of, step_of

from holdfast.core.contracts import TaskLoss, Term
from holdfast.methods.cutmix import CutMix
from holdfast.methods.mixing import mixed_term, on_host, partners, taken
from holdfast.methods.mixup import Mixup
from holdfast.methods.regmixup import RegMixup
from holdfast.train.draws import generator
from holdfast.train.objective import Objective


def clean_term(task, batch, *, hidden=False):
    """With ``hidden`` targets nobody can tell where the loss has them from."""
    loss = TaskLoss(task, batch)
    return Term(name="clean", views=(batch,), loss=(lambda outputs: loss(outputs)) if hidden else loss)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 10.0])
def test_first_draws_of_steps_have_the_moments_of_beta(alpha):
    draws = [on_host(generator(0, step, 0, "mixup")).betavariate(alpha, alpha) for step in range(4000)]
    assert draws == [on_host(generator(0, step, 0, "mixup")).betavariate(alpha, alpha) for step in range(4000)]
    assert torch.tensor(draws).mean().item() == pytest.approx(0.5, abs=0.03)
    assert torch.tensor(draws).var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("scalar", [False, True])
def test_the_loss_equals_an_explicit_loop_over_pairs(scalar, hidden):
    def loss(outputs, batch):
        value = cross_entropy(outputs, batch)
        return value.mean() if scalar else value

    task, batch = classification(loss=loss), images()
    model = model_of(task).eval()
    order, lam = partners(6, torch.Generator().manual_seed(3)), 0.3
    step, own = step_of(task, model, batch), clean_term(task, batch, hidden=hidden)
    view = {**batch, "image": torch.lerp(taken(batch["image"], order), batch["image"], lam)}
    term = mixed_term(own, view, step, order, lam, name="mixed")
    found = term.loss((model(term.views[0]["image"]),))
    x, y = batch["image"], batch["y"]
    expected = []
    for i in range(6):
        j = int(order[i])
        logits = model((0.3 * x[i] + 0.7 * x[j])[None])
        pair = [torch.nn.functional.cross_entropy(logits, y[k : k + 1]) for k in (i, j)]
        expected.append(0.3 * pair[0] + 0.7 * pair[1])
    expected = torch.stack(expected)
    torch.testing.assert_close(found, expected.mean() if scalar else expected)


def test_a_task_may_mix_its_targets():
    task = classification(
        loss=lambda outputs, batch: (outputs[:, 0] - batch["y"]).pow(2),
        target_mix=lambda a, b, lam: {**a, "y": lam * a["y"] + (1 - lam) * b["y"]},
    )
    batch, order, lam = images(), torch.tensor([1, 2, 3, 4, 5, 0]), 0.25
    step = step_of(task, model_of(task), batch)
    mixed = mixed_term(clean_term(task, batch), batch, step, order, lam)
    outputs = torch.rand(6, 3)
    expected = (outputs[:, 0] - (0.25 * batch["y"] + 0.75 * batch["y"][order])).pow(2)
    torch.testing.assert_close(mixed.loss((outputs,)), expected)
    hidden = mixed_term(clean_term(task, batch, hidden=True), batch, step, order, lam)
    assert not torch.allclose(hidden.loss((outputs,)), expected)


def test_targets_are_taken_from_the_batch_of_the_loss_where_views_were_changed_before():
    task, batch, order = classification(), images(), torch.tensor([1, 2, 3, 4, 5, 0])
    seen = {**batch, "image": batch["image"].flip(3), "y": None}
    term = Term(name="clean", views=(seen,), loss=TaskLoss(task, batch))
    mixed = mixed_term(term, seen, step_of(task, model_of(task), batch), order, 0.25)
    logits, swapped = torch.randn(6, 3), {**batch, "y": batch["y"][order]}
    expected = 0.25 * cross_entropy(logits, batch) + 0.75 * cross_entropy(logits, swapped)
    torch.testing.assert_close(mixed.loss((logits,)), expected)


@pytest.mark.parametrize("method", [Mixup(), RegMixup(), CutMix()])
def test_a_batch_may_hold_what_is_not_one_row_a_sample(method):
    """Anchors that all samples share, a counter, and the boxes of all samples in one tensor, as detectors have them."""
    boxes = [torch.rand(k, 2) for k in (1, 0, 2, 1, 1, 1)]  # six, like the samples
    owner = torch.cat([torch.full((len(own),), float(i)) for i, own in enumerate(boxes)])
    packed = torch.column_stack([owner, torch.cat(boxes)])
    batch = {**images(), "boxes": packed, "anchors": torch.rand(4, 2), "list": boxes, "epoch": torch.tensor(3)}

    def loss(outputs, seen):
        packed = seen["boxes"]
        rows = [packed[packed[:, 0] == i][:, 1].sum() for i in range(6)]
        return (outputs[:, 0] - torch.stack(rows) - seen["anchors"].sum()).pow(2)

    task = classification(loss=loss)
    objective = Objective(task=task, methods=[method], seed=0)
    model = model_of(task).train()
    assert objective(model, batch).isfinite()
    terms = method.rewrite([clean_term(task, batch)], step_of(task, model, batch))
    hidden = method.rewrite([clean_term(task, batch, hidden=True)], step_of(task, model, batch))
    outputs = torch.rand(6, 3)
    torch.testing.assert_close(terms[-1].loss((outputs,)), hidden[-1].loss((outputs,)))


@pytest.mark.parametrize("method", [Mixup(), RegMixup()])
@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_the_ends_are_exact(method, lam, monkeypatch):
    monkeypatch.setattr("random.Random.betavariate", lambda *_: lam)
    task, batch = classification(), images()
    step = step_of(task, model_of(task), batch)
    mixed = method.rewrite([clean_term(task, batch)], step)[-1].views[0]["image"]
    assert torch.equal(mixed, batch["image"][drawn(method, step)[1]] if lam == 0 else batch["image"])


def drawn(method, step):
    """Lambda and permutation of a step, drawn again."""
    draw = step.draw(type(method).__name__.lower())
    return on_host(draw).betavariate(method.alpha, method.alpha), partners(6, draw)


@pytest.mark.parametrize("method", [Mixup(alpha=1.0), RegMixup()])
@pytest.mark.parametrize("more", [{}, {"where": torch.arange(6)}])
def test_targets_are_swapped_only_where_the_batch_is_leaves_and_labels(method, more):
    """The loss reads the image, too: partners bring theirs."""

    def loss(outputs, batch):
        return cross_entropy(outputs, batch) * (1 + batch["image"].mean((1, 2, 3)))

    task = classification(loss=loss, labels=lambda batch: batch["y"])
    batch = {k: v for k, v in images().items() if k in ("image", "y")} | more
    step, outputs = step_of(task, model_of(task), batch), torch.randn(6, 3, requires_grad=True)
    lam, order = drawn(method, step)
    mixed = method.rewrite([clean_term(task, batch)], step)[-1].loss
    against_partners = loss(outputs, {k: v[order] for k, v in batch.items()})
    expected = lam * loss(outputs, batch) + (1 - lam) * against_partners
    torch.testing.assert_close(mixed((outputs,)), expected)
    (own, a), (other, b) = mixed.parts((outputs,))
    torch.testing.assert_close(a * own.mean() + b * other.mean(), expected.mean())
    assert torch.equal(other, against_partners) is not bool(more)  # else in the partners' order


@pytest.mark.parametrize("name", [1, "label.id", ("a", "b"), "y"])
def test_labels_under_any_name_are_those_of_the_partners(name):
    task = classification(
        loss=lambda outputs, batch: torch.nn.functional.cross_entropy(outputs, batch[name], reduction="none"),
        labels=lambda batch: batch[name],
    )
    batch = {"image": images()["image"], name: images()["y"]}
    step, outputs, method = step_of(task, model_of(task), batch), torch.randn(6, 3), Mixup(alpha=1.0)
    lam, order = drawn(method, step)
    mixed = method.rewrite([clean_term(task, batch)], step)[0].loss
    expected = lam * task.loss(outputs, batch) + (1 - lam) * task.loss(outputs, {name: batch[name][order]})
    torch.testing.assert_close(mixed((outputs,)), expected)
