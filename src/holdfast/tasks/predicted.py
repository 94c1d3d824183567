"""Predicted distributions: margins, distances and means of what logits stand for."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, softmax

__all__ = ["decision_margin", "kl_divergence", "mean_probability", "total_variation"]


def decision_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """``p_y - max_{k != y} p_k`` per sample, in -1..1 and negative where the decision is wrong.

    Args:
        logits: float (B, K).
        labels: int64 (B,).
    """
    p = softmax(logits, 1)
    true = p.gather(1, labels[:, None])
    others = p.scatter(1, labels[:, None], -1.0)
    return true[:, 0] - others.amax(1)


def total_variation(reference: Tensor, other: Tensor) -> Tensor:
    """``sum_k |p_k - q_k| / 2`` of two sets of logits float (B, K), per sample in 0..1."""
    return (softmax(reference, 1) - softmax(other, 1)).abs().sum(1) / 2


def kl_divergence(reference: Tensor, other: Tensor) -> Tensor:
    """``sum_k p_k (log p_k - log q_k)`` of two sets of logits float (B, K), per sample, in nats."""
    return kl_div(log_softmax(other, 1), log_softmax(reference, 1), log_target=True, reduction="none").sum(1)


def mean_probability(logits: Sequence[Tensor]) -> Tensor:
    """The log of the mean of several predicted distributions, as logits float (B, K)."""
    return torch.stack([one.log_softmax(1) for one in logits]).logsumexp(0) - math.log(len(logits))
