"""The nearest point of a hyperplane inside a box, for every sample at once."""

from __future__ import annotations

import torch
from torch import Tensor

from holdfast.attacks.geometry import Norm, by_sample

__all__ = ["nearest_on"]

FAR, SLOWEST, ALL = 1e6, 1e-12, 1e30
ASKED, STEPS = ("cpu",), 48
"""Devices on which it costs nothing to ask whether all samples are done; elsewhere so many steps are made unasked."""


def nearest_on(slope: Tensor, gap: Tensor, down: Tensor, up: Tensor, norm: Norm) -> Tensor:
    r"""``argmin ||d||`` with ``slope . d = gap`` and ``-down <= d <= up``; all of the room where that is too little.

    Every element moves in the direction that closes the gap, by ``min(l v, room)`` with ``v = 1`` for ``"linf"`` and
    ``v = |slope|`` for ``"l2"``. What this closes is a concave, piecewise linear function of ``l``.

    Args:
        slope: float (B, ...).
        gap: float (B,).
        down: float (B, ...), how far each element may fall.
        up: float (B, ...), how far it may rise.
        norm: which length is smallest, ``"linf"`` or ``"l2"``.
    """
    direction = slope.sign() * by_sample(gap.sign(), slope)
    rises, falls = direction.clamp(min=0.0), direction.clamp(max=0.0)  # 1 and -1 where they do; faster than a mask
    room = (up.clamp(0.0, FAR) * rises - down.clamp(0.0, FAR) * falls).flatten(1)
    weight = slope.abs().flatten(1)
    largest = weight.amax(1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
    weight, need = weight / largest, gap.abs()[:, None] / largest
    speed = torch.ones_like(weight) if norm == "linf" else weight
    scale = _closing(weight, speed, room, need)
    return direction * (scale * speed).minimum(room).view_as(slope)


def _closing(weight: Tensor, speed: Tensor, room: Tensor, need: Tensor) -> Tensor:
    """The ``l`` at which ``sum(weight min(l speed, room)) = need``, (B, 1); very large where there is none.

    Newton's method from below: a tangent of a concave function meets ``need`` at or before the function does, so ``l``
    only rises, and on the last piece it is exact. It takes a handful of steps; sorting the breakpoints is slower. Where
    it is not asked, what ``STEPS`` have not closed stays open.
    """
    rate, gain, breaks = weight * speed, weight * room, room / speed.clamp(min=SLOWEST)
    scale, chosen = torch.zeros_like(need), torch.empty_like(rate)  # a mask in floats is several times faster
    asked = scale.device.type in ASKED
    for _ in range(len(breaks[0]) + 1 if asked else STEPS):  # each step leaves a piece behind
        slope = (rate * torch.gt(breaks, scale, out=chosen)).sum(1, keepdim=True)
        closed = (gain * torch.le(breaks, scale, out=chosen)).sum(1, keepdim=True)
        further = torch.where(slope > 0, (need - closed) / slope, ALL)
        if asked and not bool((further > scale).any()):
            break
        scale = further.maximum(scale)
    return scale
