"""Out-of-distribution detection: scores of strangeness, and how well they part two sets, as terms per sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from holdfast.core.errors import InputError

__all__ = ["SCORES", "auroc_terms", "average_precision_terms", "fpr95_terms"]

SCORES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "max_softmax": lambda logits: -logits.double().softmax(1).amax(1),
    "entropy": lambda logits: -(logits.double().softmax(1) * logits.double().log_softmax(1)).sum(1),
    "energy": lambda logits: -logits.double().logsumexp(1),
}
"""Logits float (B, K) -> float64 (B,), larger for stranger samples. Hendrycks and Gimpel 2017; Liu et al. 2020."""


def auroc_terms(known: Tensor, strange: Tensor) -> Tensor:
    """Terms of the area under the ROC curve, ``P(strange > known) + P(equal) / 2``, float64 (B,), one a known sample.

    Args:
        known: scores of in-distribution samples, float (B,).
        strange: scores of out-of-distribution samples, float (C,).

    Raises:
        InputError: an empty set, or scores that are NaN.
    """
    _check(known, strange)
    ordered = strange.sort().values
    above = len(ordered) - torch.searchsorted(ordered, known, right=True)
    from_equal = len(ordered) - torch.searchsorted(ordered, known, right=False)
    return (above + from_equal).double() / (2 * len(ordered))


def average_precision_terms(positive: Tensor, negative: Tensor) -> Tensor:
    """Terms of the average precision, float64 (B,): for each positive the precision where it is just found.

    ``AP = sum_n (R_n - R_{n-1}) P_n`` over distinct thresholds, from high scores to low; it depends on which set is
    called positive, so say it.

    Args:
        positive: scores of what shall be found, float (B,).
        negative: scores of the others, float (C,).

    Raises:
        InputError: an empty set, or scores that are NaN.
    """
    _check(positive, negative)
    found, wrong = (
        len(scores) - torch.searchsorted(scores.sort().values, positive, right=False) for scores in (positive, negative)
    )
    return found.double() / (found + wrong)


def fpr95_terms(known: Tensor, strange: Tensor) -> Tensor:
    """Terms of the FPR at 95 % TPR, float64 (C,): 1 for every strange sample that is let in.

    The threshold is the smallest score at or below which at least 95 % of the known samples lie, so known samples are
    the positives, as in the literature on detection. Some tools call the other set positive.

    Args:
        known: see `auroc_terms`.
        strange: see `auroc_terms`.

    Raises:
        InputError: an empty set, or scores that are NaN.
    """
    _check(known, strange)
    kept = -(-95 * len(known) // 100)
    threshold = known.sort().values[kept - 1]
    return (strange <= threshold).double()


def _check(*sets: Tensor) -> None:
    for scores in sets:
        if not len(scores) or bool(scores.isnan().any()):
            raise InputError(f"{len(scores)} scores, {int(scores.isnan().sum())} of them NaN", where="OOD detection",
                             fix="give samples of both sets, and a model whose outputs are finite")  # fmt: skip
