"""Square: random search with square-shaped changes, which needs no gradient."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Generator, Tensor

from holdfast.attacks.classes import classified, logit_margin
from holdfast.attacks.look_ahead import looked_ahead
from holdfast.attacks.proposals import Draws, at_corners, move_mass
from holdfast.attacks.samples import by_sample
from holdfast.attacks.seal import Ball, Budget, Norm
from holdfast.attacks.survivors import State, Survivors
from holdfast.core.errors import InputError

__all__ = ["Square"]

Propose: TypeAlias = Callable[[Ball, Tensor, int, int], Tensor]
"""``(ball, z, query, side) -> proposals``, one for each sample, a new tensor."""

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries after which the changed share is halved, as published for 10 000 queries."""


@dataclass(frozen=True, kw_only=True)
class Square:
    r"""Random search for a positive margin ``max_{k != y} z_k - z_y``.

    A proposal stays where it raises the margin.

    ``"linf"``: begins with vertical stripes of +-eps; a proposal sets a square window of all channels to one corner of
    the ball. ``"l2"``: begins with a grid of bumps of length eps; a proposal moves the mass of one window into a bump
    in another. One window and one set of signs are drawn for the whole batch and per query, as in AutoAttack. In
    L-infinity several queries may go in one forward, see `holdfast.attacks.look_ahead`.

    The last two dimensions are height and width; where there is only one, it is the width.

    Args:
        eps: budget in units of the leaf, see `Budget`. Published: 8 (of 255) for CIFAR.
        norm: ``"linf"`` (default) or ``"l2"``.
        queries: proposals for each sample. Default 5000, as in the standard ensemble.
        share: of the elements that the first proposals change. Default 0.8.

    Raises:
        InputError: no query, a share outside 0..1; a task without classes.

    Paper: Andriushchenko et al., "Square Attack", ECCV 2020, algorithms 1 to 3; constants as in AutoAttack.
    """

    eps: Budget = 8.0
    norm: Norm = "linf"
    queries: int = 5000
    share: float = 0.8

    def __post_init__(self) -> None:
        if self.queries < 1 or not 0 < self.share <= 1:
            raise InputError(f"queries {self.queries}, share {self.share}", where="Square",
                             fix="give at least 1 query and a share in 0..1")  # fmt: skip

    def craft(self, loss: Callable[[Tensor], Tensor], x: Tensor, ball: Ball, generator: Generator) -> Tensor:
        """The point of highest margin."""
        live = Survivors(classified(loss, logit_margin, who="Square"), ball)
        draws = Draws(ball, generator, self.queries)
        z = draws.stripes() if self.norm == "linf" else draws.bumps()
        value, broken = live.look(z)
        state = live.leave(z, broken, {"z": z, "value": value})
        sides = _sides(draws.size, self.share, self.queries)
        if self.norm == "linf" and live.looks_ahead:
            state = looked_ahead(live, state, draws, sides)
        else:
            state = _one_by_one(live, state, sides, _corners(draws, sides) if self.norm == "linf" else _mass(draws))
        live.offer(state["z"], state["value"])
        return live.found

    def passes(self) -> tuple[float, float]:
        """A forward of each sample per query, and one at the start; looking ahead wastes a few more."""
        return self.queries + 1.0, 0.0


def _sides(size: tuple[int, int], share: float, queries: int) -> list[int]:
    """Side of the window at each query: the root of the elements that are to be changed."""
    changed = size[0] * size[1] * share
    by_halvings = [max(round(math.sqrt(changed / 2**k)), 1) for k in range(len(HALVINGS) + 1)]
    return [by_halvings[bisect_left(HALVINGS, query)] for query in range(queries)]


def _corners(draws: Draws, sides: Sequence[int]) -> Propose:
    windows = draws.windows(sides)

    def propose(ball: Ball, z: Tensor, query: int, side: int) -> Tensor:
        one = slice(query, query + 1)
        return at_corners(ball, z, windows[None, one], draws.signs[None, one], side).squeeze(1)

    return propose


def _mass(draws: Draws) -> Propose:
    return lambda ball, z, query, side: move_mass(ball, z, draws, query, side)


def _one_by_one(live: Survivors, state: State, sides: Sequence[int], propose: Propose) -> State:
    """Every query's proposal in turn, taken where it raises the value; the host is not told where."""
    for query, side in enumerate(sides):
        if not len(live):
            break
        proposed = propose(live.ball, state["z"], query, side)
        value, broken = live.look(proposed)
        state = live.leave(proposed, broken, {**state, "proposed": proposed, "new_value": value})
        better = by_sample(state["new_value"] > state["value"], state["z"])
        state = {"z": torch.where(better, state["proposed"], state["z"]),
                 "value": state["value"].maximum(state["new_value"])}  # fmt: skip
    return state
