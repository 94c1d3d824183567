from __future__ import annotations

import pytest
import torch
from toy_tasks import classification, cross_entropy, images, model_of, step_of

from holdfast.core.contracts import TaskLoss, Term
from holdfast.methods.mixing import blend, mix_leaves, mixed_term, on_host, partners, taken
from holdfast.train.draws import generator


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
    step, other = step_of(task, model, batch), taken(batch, order)
    term = mixed_term(
        clean_term(task, batch, hidden=hidden), mix_leaves(step, batch, other, blend(lam)), other, step, order, lam,
        name="mixed",
    )  # fmt: skip
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
    step, other = step_of(task, model_of(task), batch), taken(batch, order)
    mixed = mixed_term(clean_term(task, batch), batch, other, step, order, lam)
    outputs = torch.rand(6, 3)
    expected = (outputs[:, 0] - (0.25 * batch["y"] + 0.75 * batch["y"][order])).pow(2)
    torch.testing.assert_close(mixed.loss((outputs,)), expected)
    hidden = mixed_term(clean_term(task, batch, hidden=True), batch, other, step, order, lam)
    assert not torch.allclose(hidden.loss((outputs,)), expected)


def test_targets_are_taken_from_the_batch_of_the_loss_where_views_were_changed_before():
    task, batch, order = classification(), images(), torch.tensor([1, 2, 3, 4, 5, 0])
    seen = {**batch, "image": batch["image"].flip(3), "y": None}
    term, other = Term(name="clean", views=(seen,), loss=TaskLoss(task, batch)), taken(seen, order)
    mixed = mixed_term(term, seen, other, step_of(task, model_of(task), batch), order, 0.25)
    logits = torch.randn(6, 3)
    expected = 0.25 * cross_entropy(logits, batch) + 0.75 * cross_entropy(logits, taken(batch, order))
    torch.testing.assert_close(mixed.loss((logits,)), expected)


def test_the_ends_are_exact():
    x, partner = torch.rand(5), torch.rand(5)
    assert torch.equal(blend(1.0)(x, partner), x)
    assert torch.equal(blend(0.0)(x, partner), partner)
