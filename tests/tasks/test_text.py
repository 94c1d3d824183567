from __future__ import annotations

import math

import pytest
import torch

from holdfast.attacks.fgm import FGM
from holdfast.core.errors import InputError
from holdfast.methods.adversarial import Adversarial
from holdfast.methods.freelb import FreeLB
from holdfast.models.text_net import TextNet
from holdfast.tasks.text import MOODS, NOT, moods, sentences, text
from holdfast.train.objective import Objective

HAPPY, SAD, PLAIN = 2, 2 + MOODS, 2 + 2 * MOODS


def batch_of(task, n=8, split="train"):
    data = task.data(split)
    return {name: column[:n] for name, column in data.columns.items()}


def model_of(task, seed=0):
    torch.manual_seed(seed)
    return task.build_model()


def test_moods_of_a_sentence():
    tokens = torch.tensor([[HAPPY, NOT, SAD, PLAIN, 0], [NOT, HAPPY, HAPPY, SAD, NOT]])
    assert moods(tokens).tolist() == [[1, 0, 1, 0, 0], [0, -1, 1, -1, 0]]


def test_sentences_are_labelled_by_their_mood_and_padded():
    data = sentences(500, "mood", seed=0).columns
    assert torch.equal(data["label"], (moods(data["tokens"]).sum(1) > 0).long())
    assert 0.35 < data["label"].float().mean() < 0.5
    assert ((data["tokens"] == 0) == (data["mask"] == 0)).all()
    assert data["mask"].sum(1).min() == 5
    assert data["mask"].sum(1).max() == 16


def test_the_next_word_is_one_of_four():
    data = sentences(3000, "next_word", seed=0).columns
    inside = data["mask"] == 1
    assert torch.equal(data["tokens"][:, 1:][inside[:, 1:]], data["label"][:, :-1][inside[:, 1:]])
    pairs = torch.stack([data["tokens"][inside], data["label"][inside]], 1).unique(dim=0)
    assert torch.bincount(pairs[:, 0]).max() <= 4


def test_splits_differ_and_are_reproducible():
    task = text(samples=50, test_samples=50)
    assert torch.equal(task.data("val").columns["tokens"], task.data("val").columns["tokens"])
    assert not torch.equal(task.data("val").columns["tokens"], task.data("select").columns["tokens"])
    assert not torch.equal(
        task.data("val").columns["tokens"], text(test_samples=50, seed=1).data("val").columns["tokens"]
    )
    with pytest.raises(KeyError):
        task.data("report_sequence")


@pytest.mark.parametrize("target", ["mood", "next_word"])
def test_padding_is_not_seen(target):
    task = text(target=target)
    model, batch = model_of(task).eval(), batch_of(task)
    changed = {**batch, "tokens": torch.where(batch["mask"] == 0, HAPPY, batch["tokens"])}
    for compute in (task.loss, *(m.compute for m in task.metrics)):
        torch.testing.assert_close(
            compute(task.forward(model, batch), batch), compute(task.forward(model, changed), batch)
        )


def test_words_see_only_those_before_them_when_the_next_one_is_asked():
    model = TextNet(words=20, tied=True).eval()
    tokens, mask = torch.randint(1, 20, (2, 16)), torch.ones(2, 16)
    later = tokens.clone()
    later[:, 10:] = 1
    torch.testing.assert_close(model(tokens, mask)[:, :10], model(later, mask)[:, :10])
    assert "head.weight" not in dict(model.named_parameters())


def test_learns_both_targets_within_seconds():
    for target, metric, floor in (("mood", 0, 0.85), ("next_word", 1, None)):
        task = text(target=target)
        train, report = task.data("train").columns, task.data("report").columns
        model, objective = model_of(task), Objective(task)
        optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
        for i in range(96):
            chosen = torch.arange(64) + 64 * (i % 32)
            optimiser.zero_grad()
            objective.backward(model, {k: v[chosen] for k, v in train.items()})
            optimiser.step()
        with torch.no_grad():
            value = task.metrics[metric].compute(task.forward(model.eval(), report), report).mean().item()
        assert value > floor if floor else math.log(4) < value < 3.0


@pytest.mark.parametrize("target", ["mood", "next_word"])
def test_an_attack_on_the_embedding_does_not_move_the_tied_output_layer(target):
    task = text(target=target, dropout=0.0)
    batch = batch_of(task)
    objective = Objective(task, [Adversarial(attack=FGM(eps=0.3), tap="embedding", clean_weight=0)])
    model = objective.prepare(model_of(task), batch)
    twin = model_of(task)
    loss = objective(model, batch)

    class Moved(torch.nn.Module):
        """The embedding with something added to what it gives; its weight is the twin's own."""

        def __init__(self, embedding, delta):
            super().__init__()
            self.embedding, self.delta = embedding, delta
            self.weight = embedding.weight

        def forward(self, tokens):
            return self.embedding(tokens) + self.delta

    embedding = twin.embedding
    delta = torch.zeros(8, 16, 32, requires_grad=True)
    twin.embedding = Moved(embedding, delta)
    (g,) = torch.autograd.grad(task.loss(task.forward(twin, batch), batch).sum(), delta)
    twin.embedding = Moved(embedding, 0.3 * g / g.flatten(1).norm(dim=1)[:, None, None])
    expected = task.loss(task.forward(twin, batch), batch).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(model.model.embedding.weight.grad, embedding.weight.grad, rtol=1e-3, atol=1e-5)
    assert (g[batch["mask"] == 0] == 0).all()


def test_freelb_trains_the_transformer_with_dropout():
    task = text(dropout=0.3)
    objective = Objective(task, [FreeLB(tap="embedding", mask="mask", steps=3)])
    model = objective.prepare(model_of(task), batch_of(task))
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    train, losses = task.data("train").columns, []
    for i in range(30):
        optimiser.zero_grad()
        losses.append(objective.backward(model, {k: v[64 * i : 64 * i + 64] for k, v in train.items()}).item())
        optimiser.step()
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_divergence_is_zero_for_equal_outputs_and_positive_otherwise():
    for target in ("mood", "next_word"):
        task = text(target=target)
        batch = batch_of(task)
        a, b = (task.forward(model_of(task, seed).eval(), batch) for seed in (0, 1))
        torch.testing.assert_close(task.divergence(a, a, batch), torch.zeros(8))
        assert (task.divergence(a, b, batch) > 0).all()
        assert task.drifts[0].compute(a, a, batch).max() == 0


def test_refusal():
    with pytest.raises(InputError, match="mood or next_word"):
        text(target="rhyme")
