"""Sentences of a made-up language: their mood, or their next word; for attacks on embeddings."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from holdfast.core.contracts import Batch, Drift, Metric, Outputs, Task
from holdfast.core.errors import InputError
from holdfast.core.space import InputSpace
from holdfast.data.samples import Samples
from holdfast.models.text_net import TextNet
from holdfast.tasks.predicted import mean_probability

__all__ = ["sentences", "text"]

Target: TypeAlias = Literal["mood", "next_word"]
LENGTH, SHORTEST = 16, 5
NOT, MOODS, NEUTRAL = 1, 30, 40
WORDS = 2 + 2 * MOODS + NEUTRAL
"""Padding, "not", happy words, sad words, and words without a mood."""


def text(*, target: Target = "mood", samples: int = 2048, test_samples: int = 512, dropout: float = 0.1,
         seed: int = 0) -> Task:  # fmt: skip
    """A transformer on sentences of 5 to 16 words; batches hold ``tokens`` int64 and ``mask`` float (B, 16).

    ``mood``: is the sum of the words' moods positive? Each mood word counts +-1, and "not" turns the word after it.
    ``next_word``: every word is followed by one of four, so that 1.39 nats a word is the best possible; the model's
    output layer is tied to its embedding.

    The space has no leaf: words have no neighbours. Attack ``tap: embedding`` instead.

    Args:
        target: ``mood`` (default) or ``next_word``.
        samples: sentences of ``train`` and ``unlabelled`` each.
        test_samples: of ``val``, ``select`` and ``report`` each.
        dropout: of the model.
        seed: of the sentences.

    Raises:
        InputError: an unknown target.
    """
    if target not in ("mood", "next_word"):
        raise InputError(f"unknown target {target!r}", where="task 'text'", fix="use mood or next_word")
    tests = dict.fromkeys(("val", "select", "report"), test_samples)
    counts = {"train": samples, **tests, "unlabelled": samples}

    def data(split: str) -> Samples:
        return sentences(counts[split], target, seed=seed * len(counts) + list(counts).index(split))

    tied = target == "next_word"
    return Task(
        name="text",
        build_model=lambda: TextNet(words=WORDS, length=LENGTH, dropout=dropout, tied=tied),
        data=data,
        loss=_word_loss if tied else _mood_loss,
        metrics=(
            Metric(name="accuracy", compute=_word_accuracy if tied else _mood_accuracy, unit="1", better="higher"),
            Metric(name="nll", compute=_word_loss if tied else _mood_loss, unit="nat"),
        ),
        space=InputSpace({}),
        drifts=(Drift(name="flipped", compute=_flipped, unit="1"),),
        inputs=lambda batch: (batch["tokens"], batch["mask"]),
        divergence=_divergence,
        failed=None if tied else lambda outputs, batch: _mood_accuracy(outputs, batch) == 0,
        labels=None if tied else lambda batch: batch["label"],
        pseudo_label=None if tied else lambda outputs, batch: {**batch, "label": outputs.argmax(1)},
        mixture=None if tied else mean_probability,
        fingerprint=f"text {target} {counts} {seed=}",
    )


def sentences(count: int, target: Target, *, seed: int) -> Samples:
    """Sentences with their labels: the mood int64 (N,), or the next words int64 (N, 16), 0 where there is none."""
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(SHORTEST, LENGTH + 1, (count,), generator=g)
    mask = (torch.arange(LENGTH) < lengths[:, None]).float()
    if target == "next_word":
        chain = _chain(count, g)
        tokens = (chain[:, :-1] * mask).long()
        follows = (chain[:, 1:] * mask).long()
        return Samples(tokens=tokens, mask=mask, label=follows)
    tokens = (torch.randint(1, WORDS, (count, LENGTH), generator=g) * mask).long()
    return Samples(tokens=tokens, mask=mask, label=(moods(tokens).sum(1) > 0).long())


def moods(tokens: Tensor) -> Tensor:
    """What each word, int64 (N, L), adds to the mood: 1, -1 or 0, turned after "not"."""
    happy = ((tokens >= 2) & (tokens < 2 + MOODS)).long()
    sad = ((tokens >= 2 + MOODS) & (tokens < 2 + 2 * MOODS)).long()
    turned = torch.zeros_like(tokens)
    turned[:, 1:] = (tokens[:, :-1] == NOT).long()
    return (happy - sad) * (1 - 2 * turned)


def _chain(count: int, g: torch.Generator) -> Tensor:
    """Words that follow one another by a fixed table of four successors each, int64 (N, L + 1)."""
    successors = torch.randint(1, WORDS, (WORDS, 4), generator=torch.Generator().manual_seed(0))
    words = [torch.randint(1, WORDS, (count,), generator=g)]
    for _ in range(LENGTH):
        words.append(successors[words[-1], torch.randint(4, (count,), generator=g)])
    return torch.stack(words, dim=1)


def _mood_loss(outputs: Outputs, batch: Batch) -> Tensor:
    return cross_entropy(outputs, batch["label"], reduction="none")


def _mood_accuracy(outputs: Outputs, batch: Batch) -> Tensor:
    right: Tensor = (outputs.argmax(1) == batch["label"]).double()
    return right


def _word_loss(outputs: Outputs, batch: Batch) -> Tensor:
    nats = cross_entropy(outputs.transpose(1, 2), batch["label"], reduction="none")
    return _over_words(nats, batch)


def _word_accuracy(outputs: Outputs, batch: Batch) -> Tensor:
    return _over_words((outputs.argmax(2) == batch["label"]).double(), batch)


def _flipped(reference: Outputs, other: Outputs, batch: Batch) -> Tensor:
    changed: Tensor = (reference.argmax(-1) != other.argmax(-1)).double()
    return changed if changed.ndim == 1 else _over_words(changed, batch)


def _divergence(reference: Outputs, other: Outputs, batch: Batch) -> Tensor:
    log_p, log_q = reference.log_softmax(-1), other.log_softmax(-1)
    nats: Tensor = (log_p.exp() * (log_p - log_q)).sum(-1)
    return nats if nats.ndim == 1 else _over_words(nats, batch)


def _over_words(values: Tensor, batch: Batch) -> Tensor:
    """Mean over the words that count, (B,)."""
    mask: Tensor = batch["mask"].to(values)
    return (values * mask).sum(1) / mask.sum(1)
