"""Greedy soups as the paper writes them: every candidate and every trial evaluated on the whole split."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from averages_twin import State, equal_mean


def naive_greedy(
    states: Sequence[State], score: Callable[[State], float], *, strict: bool = True
) -> tuple[list[int], int]:
    """Members in order, and the evaluations that were needed."""
    scores = [score(state) for state in states]
    order = sorted(range(len(states)), key=lambda k: -scores[k])
    members, best = [order[0]], scores[order[0]]
    for k in order[1:]:
        trial = score(equal_mean([states[m] for m in [*members, k]]))
        if trial > best or (not strict and trial == best):
            members, best = [*members, k], trial
    return members, 2 * len(states) - 1
