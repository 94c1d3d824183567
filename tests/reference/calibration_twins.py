"""Slow readable twins of `holdfast.tasks.calibration` and `holdfast.tasks.ood`: loops over samples, bins and pairs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence


def probabilities(logits: Sequence[float]) -> list[float]:
    top = max(logits)
    powers = [math.exp(z - top) for z in logits]
    return [power / sum(powers) for power in powers]


def ece(rows: Sequence[Sequence[float]], labels: Sequence[int], edges: Sequence[float]) -> float:
    bins: list[list[tuple[float, float]]] = [[] for _ in edges[1:]]
    for logits, label in zip(rows, labels, strict=True):
        p = probabilities(logits)
        sure, right = max(p), float(p.index(max(p)) == label)
        for b, (low, high) in enumerate(itertools.pairwise(edges)):
            if low < sure <= high or (b == 0 and sure <= high):
                bins[b].append((sure, right))
                break
    total = 0.0
    for members in bins:
        if members:
            total += abs(sum(right for _, right in members) - sum(sure for sure, _ in members))
    return total / len(rows)


def brier(rows: Sequence[Sequence[float]], labels: Sequence[int]) -> float:
    total = 0.0
    for logits, label in zip(rows, labels, strict=True):
        total += sum((p - float(k == label)) ** 2 for k, p in enumerate(probabilities(logits)))
    return total / len(rows)


def auroc(known: Sequence[float], strange: Sequence[float]) -> float:
    won = sum(1.0 if s > k else 0.5 if s == k else 0.0 for k in known for s in strange)
    return won / (len(known) * len(strange))


def average_precision(positive: Sequence[float], negative: Sequence[float]) -> float:
    total, recall = 0.0, 0.0
    for threshold in sorted({*positive, *negative}, reverse=True):
        found, wrong = (sum(score >= threshold for score in scores) for scores in (positive, negative))
        total += (found / len(positive) - recall) * found / (found + wrong)
        recall = found / len(positive)
    return total


def fpr95(known: Sequence[float], strange: Sequence[float]) -> float:
    for threshold in sorted(known):
        if sum(score <= threshold for score in known) >= 0.95 * len(known):
            return sum(score <= threshold for score in strange) / len(strange)
    raise AssertionError
