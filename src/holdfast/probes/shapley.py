"""Shapley values: how much of an effect each of several causes bears when they interact."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
from torch import Tensor

__all__ = ["exact", "sampled"]

Worth = Callable[[frozenset[str]], Tensor]


def exact(worth: Worth, causes: Sequence[str]) -> dict[str, Tensor]:
    """The Shapley value of each cause, from all ``2^k`` sets of causes.

    Equation: ``phi_i = sum_S |S|! (k - |S| - 1)! / k! (v(S + i) - v(S))`` over the sets S without i. The values sum to
    ``v(all) - v(none)``.

    Args:
        worth: ``set of causes -> Tensor``, asked once a set; values are attributed element by element.
        causes: their names.
    """
    k = len(causes)
    sets = {frozenset(chosen): None for size in range(k + 1) for chosen in combinations(causes, size)}
    values = {chosen: worth(chosen) for chosen in sets}
    found = {}
    for cause in causes:
        total = values[frozenset()] * 0
        for chosen in sets:
            if cause not in chosen:
                weight = math.factorial(len(chosen)) * math.factorial(k - len(chosen) - 1) / math.factorial(k)
                total = total + weight * (values[chosen | {cause}] - values[chosen])
        found[cause] = total
    return found


def sampled(worth: Worth, causes: Sequence[str], *, orders: int, seed: int = 0) -> dict[str, Tensor]:
    """An estimate of the Shapley values from random orders and their reverses, in which causes join one by one.

    The values still sum to ``v(all) - v(none)``.

    Args:
        worth: ``set of causes -> Tensor``, asked once a set.
        causes: their names.
        orders: how many, at least 2; an odd number is rounded up.
        seed: of the orders.
    """
    known: dict[frozenset[str], Tensor] = {}

    def value(chosen: frozenset[str]) -> Tensor:
        if chosen not in known:
            known[chosen] = worth(chosen)
        return known[chosen]

    rng, pairs = np.random.default_rng(seed), max(1, (orders + 1) // 2)
    total = {cause: value(frozenset()) * 0 for cause in causes}
    for _ in range(pairs):
        order = [causes[i] for i in rng.permutation(len(causes))]
        for one in (order, order[::-1]):
            chosen: frozenset[str] = frozenset()
            for cause in one:
                total[cause] = total[cause] + (value(chosen | {cause}) - value(chosen)) / (2 * pairs)
                chosen = chosen | {cause}
    return total
