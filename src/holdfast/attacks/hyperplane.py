"""The nearest point of a hyperplane inside a box, for every sample at once."""

from __future__ import annotations

import torch
from torch import Tensor

from holdfast.attacks.samples import Norm

__all__ = ["nearest_on"]

FAR, SLOWEST, ALL = 1e6, 1e-12, 1e30
ASKED, STEPS = ("cpu",), 48
"""Devices on which it costs nothing to ask whether all samples are done; elsewhere so many steps are made unasked."""
_IN_CACHE = 1 << 16
"""Numbers of one tensor at a time on a CPU: with all that are needed beside it, they stay in the L2 cache."""


def nearest_on(slope: Tensor, gap: Tensor, down: Tensor, up: Tensor, norm: Norm,
               guess: Tensor | None = None) -> Tensor:  # fmt: skip
    r"""``argmin ||d||`` with ``slope . d = gap`` and ``-down <= d <= up``; all of the room where that is too little.

    Every element moves in the direction that closes the gap, by ``min(l v, room)`` with ``v = 1`` for ``"linf"`` and
    ``v = |slope|`` for ``"l2"``. What this closes is a concave, piecewise linear function of ``l``.

    Args:
        slope: float (B, ...).
        gap: float (B,).
        down: float (B, ...), how far each element may fall.
        up: float (B, ...), how far it may rise.
        norm: which length is smallest, ``"linf"`` or ``"l2"``.
        guess: float32 or wider (B,), where to begin to look for ``l``, 0 for no idea; what is found is written there,
            to begin with on a hyperplane that is nearly the same.

    Returns:
        As ``slope``; of half precision, in single.
    """
    wide = torch.promote_types(slope.dtype, torch.float32)  # FAR and ALL are beyond a half
    guess = torch.zeros(len(slope), dtype=wide, device=slope.device) if guess is None else guess
    whole = [*(values.to(wide).flatten(1) for values in (slope, gap[:, None], down, up)), guess[:, None]]
    rows = max(_IN_CACHE // max(whole[0].shape[1], 1), 1) if slope.device.type == "cpu" else max(len(slope), 1)
    found = torch.empty_like(whole[0])
    for first in range(0, len(slope), rows):
        part = slice(first, first + rows)
        _nearest(norm, found[part], *(values[part] for values in whole))
    return found.view_as(slope)


def _nearest(norm: Norm, found: Tensor, slope: Tensor, gap: Tensor, down: Tensor, up: Tensor, guess: Tensor) -> None:
    """The same of vectors (B, n), with a gap and a guess (B, 1), into ``found``.

    In place wherever nobody sees it, as new memory costs most.
    """
    direction = slope.sign().mul_(gap.sign())
    # The larger of the two is the one it moves to; masks are several times slower.
    fall = down.clamp(max=FAR).mul_(direction).neg_()
    room = up.clamp(max=FAR).mul_(direction)
    room = torch.maximum(room, fall, out=room).clamp_(min=0.0)
    weight = torch.abs(slope, out=fall)
    largest = weight.amax(1, keepdim=True).clamp_(min=torch.finfo(weight.dtype).tiny)
    weight, need = weight.div_(largest), gap.abs() / largest
    if norm == "linf":
        moved = torch.minimum(room, _closing(weight, weight * room, room, need, guess), out=room)
    else:
        breaks = room / weight.clamp(min=SLOWEST)
        moved = room.minimum(weight * _closing(weight * weight, weight * room, breaks, need, guess))
    torch.mul(direction, moved, out=found)


def _closing(rate: Tensor, gain: Tensor, breaks: Tensor, need: Tensor, guess: Tensor) -> Tensor:
    """The ``l`` at which ``need`` is closed, (B, 1), from a guess that receives it; very large where there is none.

    Each element closes ``l rate`` up to its own ``l = breaks``, and ``gain`` from there on.

    Newton's method: a tangent of a concave function meets ``need`` at or before the function does, so that from the
    second ``l`` on it only rises, and on the last piece it is exact. It takes a handful of steps; sorting the
    breakpoints is slower. Where it is not asked, what ``STEPS`` have not closed stays open.
    """
    moving = torch.empty_like(rate)  # a mask in floats is several times faster

    def tangent(scale: Tensor, flat: float) -> Tensor:
        slope = torch.linalg.vecdot(rate, torch.gt(breaks, scale, out=moving))[:, None]
        # Not the sum of all gains less those of the moving: beside unbounded room it would lose what is closed.
        closed = torch.linalg.vecdot(gain, torch.le(breaks, scale, out=moving))[:, None]
        return torch.where(slope > 0, (need - closed) / slope, flat)

    asked = rate.device.type in ASKED
    scale = tangent(guess, 0.0).clamp_(min=0.0)  # a guess beyond the last piece tells nothing
    for _ in range(breaks.shape[1] + 1 if asked else STEPS):  # each step leaves a piece behind
        further = tangent(scale, ALL)
        if asked and not bool((further > scale).any()):
            break
        scale = further.maximum(scale)
    guess.copy_(scale)
    return scale
