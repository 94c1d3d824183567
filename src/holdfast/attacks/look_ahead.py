"""A random search several queries at a time: most proposals are refused, and until one is not the next are known."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from holdfast.attacks.aim import Aim
from holdfast.attacks.proposals import Draws, at_corners
from holdfast.attacks.survivors import State, Survivors

__all__ = ["looked_ahead"]

WASTE = 0.1
"""Share of the proposals that may be asked in vain, because one before them was taken."""
MEMORY = 0.95
"""Weight of the share that was taken so far, beside that of the last look."""
RAREST = 1e-3
"""The least share that is counted with."""
NUMBERS = 1 << 19
"""Of all proposals of a look and their batch: beyond, memory takes back what fewer calls save."""


@torch.no_grad()
def looked_ahead(live: Survivors, state: State, draws: Draws, sides: Sequence[int]) -> State:
    """Every query's proposal in turn, taken by the samples whose value it raises, in fewer forwards than queries.

    Each sample's next proposals are asked in one forward, all of the same point. The first that raises its value is
    taken, or it leaves with the first that breaks it; what comes after that one was asked of a point that is left, and
    is asked again. So each sample is at a query of its own. Normalisation in training mode sees all proposals.

    Args:
        live: the samples, with what is raised; it `looks_ahead`.
        state: ``z``, float (B, ...), and its ``value``, (B,).
        draws: of the proposals.
        sides: of the window, for each query.
    """
    windows, share, size = draws.windows(sides), 1.0, (0, 0)
    state = {**state, "query": torch.zeros_like(live.rows)}
    aim = live.aim
    while len(live) and (first := int(state["query"].min())) < len(sides):
        count = min(_count(live, share), len(sides) - first)
        if size != (len(live), count):
            size = len(live), count
            aim = live.aim.take(torch.arange(len(live)).repeat_interleave(count))
        query = state["query"][:, None] + torch.arange(count)
        asked = query.clamp(max=len(sides) - 1)
        proposed = at_corners(live.ball, state["z"], windows[asked], draws.signs[asked], sides[first])
        state, taken = _answered(live, aim, state, proposed.flatten(0, 1), query < len(sides))
        share = MEMORY * share + (1 - MEMORY) * taken / query.numel()
    return state


def _count(live: Survivors, share: float) -> int:
    """How many proposals to ask at once, a power of two, where this share of them is taken."""
    few, room = 1 + int(2 * WASTE / max(share, RAREST)), NUMBERS // max(live.numbers, 1)
    return 1 << (max(min(few, room), 1).bit_length() - 1)


def _answered(live: Survivors, aim: Aim, state: State, proposed: Tensor, real: Tensor) -> tuple[State, int]:
    """The state after some proposals for each sample, and how many samples moved.

    Args:
        live: the samples.
        aim: for every proposal.
        state: of the samples.
        proposed: for each sample one after the other.
        real: bool (B, n), which of them are proposals.
    """
    count = real.shape[1]
    outputs = aim.outputs(proposed)
    value, broken = aim.value(outputs), aim.broken(proposed, outputs)
    better = value.view_as(real) > state["value"][:, None]
    moves = (better if broken is None else better | broken.view_as(real)) & real
    moved = moves.any(1)
    # The first that moves a sample; one that none of them moves is done with all.
    step = torch.where(moved, moves.to(torch.uint8).argmax(1), count - 1)
    state = {**state, "query": state["query"] + step + 1}
    rows = moved.nonzero().squeeze(1)
    if len(rows):
        chosen = rows * count + step[rows]
        state["z"] = state["z"].index_copy(0, rows, proposed[chosen])
        state["value"] = state["value"].index_copy(0, rows, value[chosen].maximum(state["value"][rows]))
        if broken is not None:
            leaving = torch.zeros_like(moved).index_copy_(0, rows, broken[chosen])
            state = live.leave(state["z"], leaving, state)
    return state, len(rows)
