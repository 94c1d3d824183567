from __future__ import annotations

import pytest
import torch
from toy_tasks import classification, cross_entropy, images, model_of, step_of

from holdfast.core.contracts import Term
from holdfast.methods.mixing import beta, blend, mix_leaves, mixed_term, partners


def clean_term(task, batch):
    return Term(name="clean", views=(batch,), loss=lambda outputs: task.loss(outputs[0], batch))


@pytest.mark.parametrize("alpha", [0.2, 1.0, 10.0])
def test_beta_has_the_moments_of_beta(alpha):
    g = torch.Generator().manual_seed(0)
    draws = torch.stack([beta(alpha, g) for _ in range(4000)])
    assert draws.mean().item() == pytest.approx(0.5, abs=0.03)
    assert draws.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


@pytest.mark.parametrize("scalar", [False, True])
def test_the_loss_equals_an_explicit_loop_over_pairs(scalar):
    def loss(outputs, batch):
        value = cross_entropy(outputs, batch)
        return value.mean() if scalar else value

    task, batch = classification(loss=loss), images()
    model = model_of(task).eval()
    order, lam = partners(6, torch.Generator().manual_seed(3)), torch.tensor(0.3)
    step = step_of(task, model, batch)
    term = mixed_term(
        clean_term(task, batch), mix_leaves(step, batch, order, blend(lam)), step, order, lam, name="mixed"
    )
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
    batch, order, lam = images(), torch.tensor([1, 2, 3, 4, 5, 0]), torch.tensor(0.25)
    step = step_of(task, model_of(task), batch)
    mixed = mixed_term(clean_term(task, batch), batch, step, order, lam)
    outputs = torch.rand(6, 3)
    expected = (outputs[:, 0] - (0.25 * batch["y"] + 0.75 * batch["y"][order])).pow(2)
    torch.testing.assert_close(mixed.loss((outputs,)), expected)
    other = mixed_term(Term(name="other", views=(batch,), loss=clean_term(task, batch).loss), batch, step, order, lam)
    assert not torch.allclose(other.loss((outputs,)), expected)


def test_the_ends_are_exact():
    x, partner = torch.rand(5), torch.rand(5)
    assert torch.equal(blend(torch.tensor(1.0))(x, partner), x)
    assert torch.equal(blend(torch.tensor(0.0))(x, partner), partner)
