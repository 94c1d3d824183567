"""Calibration measures as terms per sample, whose mean is the measure, so that statistics can be paired."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from holdfast.core.errors import InputError

__all__ = [
    "adaptive_edges", "brier_terms", "confidence", "debiased_ece_terms", "ece_terms", "equal_edges", "fit_temperature",
    "squared_error_terms",
]  # fmt: skip


def confidence(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The largest predicted probability and whether that class is the right one, both float64 (B,).

    Args:
        logits: float (B, K).
        labels: int64 (B,).
    """
    largest, predicted = logits.double().softmax(1).max(1)
    return largest, (predicted == labels).double()


def equal_edges(bins: int = 15) -> Tensor:
    """Edges of ``bins`` bins of equal width on 0..1, float64 (bins + 1,)."""
    return torch.linspace(0, 1, bins + 1, dtype=torch.float64)


def adaptive_edges(largest: Tensor, bins: int = 15) -> Tensor:
    """Edges of bins that hold equally many samples, float64 (bins + 1,); equal confidences share a bin.

    Args:
        largest: confidences, float (B,).
        bins: default 15.
    """
    ordered = largest.double().sort().values
    at = torch.linspace(0, len(ordered) - 1, bins + 1, dtype=torch.float64)
    low = at.floor().long()
    high = at.ceil().long()
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def ece_terms(largest: Tensor, right: Tensor, edges: Tensor) -> Tensor:
    r"""Terms of the expected calibration error, float64 (B,).

    .. math:: ECE = \sum_b \frac{|B_b|}{N} |acc(B_b) - conf(B_b)| = \frac1N \sum_i s_{b(i)} (right_i - largest_i)

    with ``s_b`` the sign of bin ``b``'s gap; bins are ``(l, u]``, the first closed. It is biased upwards for few
    samples: see `debiased_ece_terms`.

    Args:
        largest: confidences, float (B,), from `confidence`.
        right: 1 or 0, float (B,).
        edges: ascending, from `equal_edges` (the usual ECE) or `adaptive_edges`.

    Paper: Naeini et al., AAAI 2015; adaptive: Nguyen and O'Connor, EMNLP 2015.
    """
    index = _bins(largest, edges)
    gaps = right.double() - largest.double()
    sums = torch.zeros(len(edges) - 1, dtype=torch.float64).index_add_(0, index, gaps)
    return sums.sign()[index] * gaps


def squared_error_terms(largest: Tensor, right: Tensor, edges: Tensor) -> Tensor:
    r"""Terms of the squared calibration error without its bias, float64 (B,); the mean may be negative.

    .. math:: \sum_b \frac{|B_b|}{N} \left[(acc(B_b) - conf(B_b))^2 - \frac{acc(B_b) (1 - acc(B_b))}{|B_b| - 1}\right]

    A bin of one sample says nothing and counts zero. Kumar, Liang and Ma (NeurIPS 2019, definition 4.1).

    Args:
        largest: see `ece_terms`.
        right: see `ece_terms`.
        edges: see `ece_terms`.
    """
    index = _bins(largest, edges)
    counts, accuracy, gap = _statistics(largest, right, index, len(edges) - 1)
    chance = accuracy * (1 - accuracy) / (counts - 1).clamp_min(1)
    return torch.where(counts > 1, gap.square() - chance, 0.0)[index]


def debiased_ece_terms(largest: Tensor, right: Tensor, edges: Tensor) -> Tensor:
    r"""Terms of the ECE less what chance alone would add, float64 (B,).

    In a bin of ``n`` samples the gap has the standard error ``s = sqrt(acc (1 - acc) / n)``, so that a true gap ``g``
    is seen as ``E|g + s Z|``, ``Z`` normal. The excess of that over ``|g|``, at the gap seen, is subtracted: the limit
    of the resampling estimator of Kumar, Liang and Ma (NeurIPS 2019, section 4). It takes away some two fifths of
    the bias of a calibrated model; `squared_error_terms` has none.

    Args:
        largest: see `ece_terms`.
        right: see `ece_terms`.
        edges: see `ece_terms`.
    """
    index = _bins(largest, edges)
    counts, accuracy, gap = _statistics(largest, right, index, len(edges) - 1)
    error = (accuracy * (1 - accuracy) / counts.clamp_min(1)).sqrt().clamp_min(1e-12)
    z = gap / error
    folded = error * math.sqrt(2 / math.pi) * (-z.square() / 2).exp() + gap * torch.erf(z / math.sqrt(2))
    return (2 * gap.abs() - folded)[index]


def _statistics(largest: Tensor, right: Tensor, index: Tensor, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Samples, accuracy and gap of every bin; zeros for an empty one."""
    counts, hits, sure = (
        torch.zeros(bins, dtype=torch.float64).index_add_(0, index, values.double())
        for values in (torch.ones_like(right), right, largest)
    )
    return counts, hits / counts.clamp_min(1), (hits - sure) / counts.clamp_min(1)


def _bins(largest: Tensor, edges: Tensor) -> Tensor:
    return (torch.bucketize(largest.double(), edges) - 1).clamp(0, len(edges) - 2)


def brier_terms(logits: Tensor, labels: Tensor) -> Tensor:
    """``sum_k (p_k - y_k)^2``, float64 (B,), in 0..2 (Brier 1950).

    Args:
        logits: float (B, K).
        labels: int64 (B,).
    """
    p = logits.double().softmax(1)
    return p.square().sum(1) - 2 * p.gather(1, labels[:, None])[:, 0] + 1


def fit_temperature(logits: Tensor, labels: Tensor, *, low: float = 0.02, high: float = 50.0) -> float:
    """The temperature ``T`` that minimises the likelihood loss of ``softmax(z / T)`` (Guo et al., ICML 2017).

    The loss is convex in ``1 / T``; the minimum is bracketed by golden sections of ``log T``.

    Args:
        logits: float (B, K), of samples that neither trained the model nor are reported.
        labels: int64 (B,).
        low: least temperature to look at.
        high: largest temperature to look at.

    Raises:
        InputError: logits that are not finite.
    """
    if not bool(logits.isfinite().all()):
        raise InputError("logits are NaN or infinite", where="temperature", fix="look at the model and its input")
    z = logits.double()

    def loss(t: float) -> float:
        return float(cross_entropy(z / math.exp(t), labels))

    a, b, golden = math.log(low), math.log(high), (math.sqrt(5) - 1) / 2
    c, d = b - golden * (b - a), a + golden * (b - a)
    at_c, at_d = loss(c), loss(d)
    while b - a > 1e-6:
        if at_c <= at_d:
            b, d, at_d = d, c, at_c
            c = b - golden * (b - a)
            at_c = loss(c)
        else:
            a, c, at_c = c, d, at_d
            d = a + golden * (b - a)
            at_d = loss(d)
    return math.exp((a + b) / 2)
