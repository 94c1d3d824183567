from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch

from holdfast.probes import shapley

CAUSES = ["a", "b", "c", "d"]


def game(seed: int = 0):
    rng = np.random.default_rng(seed)
    values = {}

    def worth(chosen: frozenset[str]) -> torch.Tensor:
        if chosen not in values:
            values[chosen] = torch.from_numpy(rng.normal(size=3))
        return values[chosen]

    return worth


def by_definition(worth, causes):
    """The mean over all orders of what a cause adds when it joins."""
    total = {cause: torch.zeros(3).double() for cause in causes}
    orders = list(permutations(causes))
    for order in orders:
        for i, cause in enumerate(order):
            total[cause] += (worth(frozenset(order[: i + 1])) - worth(frozenset(order[:i]))) / len(orders)
    return total


def test_exact_values_are_the_mean_over_all_orders() -> None:
    worth = game()
    found, expected = shapley.exact(worth, CAUSES), by_definition(worth, CAUSES)
    for cause in CAUSES:
        torch.testing.assert_close(found[cause], expected[cause])


@pytest.mark.parametrize("share", [lambda w: shapley.exact(w, CAUSES), lambda w: shapley.sampled(w, CAUSES, orders=5)])
def test_shares_sum_to_the_whole_change(share) -> None:
    worth = game(1)
    total = torch.stack(list(share(worth).values())).sum(0)
    torch.testing.assert_close(total, worth(frozenset(CAUSES)) - worth(frozenset()))


def test_sampled_values_come_near_the_exact_ones() -> None:
    worth = game(2)
    found, expected = shapley.sampled(worth, CAUSES, orders=2000), shapley.exact(worth, CAUSES)
    for cause in CAUSES:
        torch.testing.assert_close(found[cause], expected[cause], atol=0.15, rtol=0)


def test_without_interaction_each_bears_its_own_effect() -> None:
    own = {"a": 1.0, "b": -2.0, "c": 0.0, "d": 5.0}
    for shares in (shapley.exact, lambda w, c: shapley.sampled(w, c, orders=2)):
        found = shares(lambda chosen: torch.tensor([sum(own[c] for c in chosen)], dtype=torch.float64), CAUSES)
        assert {cause: float(value) for cause, value in found.items()} == pytest.approx(own)
