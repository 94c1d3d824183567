"""The nearest point of a hyperplane inside a box, for every sample at once."""

from __future__ import annotations

import torch
from torch import Tensor

from holdfast.attacks.geometry import Norm, by_sample

__all__ = ["nearest_on"]

FAR, SLOWEST, ALL = 1e6, 1e-12, 1e30


def nearest_on(slope: Tensor, gap: Tensor, down: Tensor, up: Tensor, norm: Norm) -> Tensor:
    r"""``argmin ||d||`` with ``slope . d = gap`` and ``-down <= d <= up``; all of the room where that is too little.

    Every element moves in the direction that closes the gap, by ``min(l v, room)`` with ``v = 1`` for ``"linf"`` and
    ``v = |slope|`` for ``"l2"``. What this closes is a concave, piecewise linear function of ``l``: the breakpoints
    ``room / v`` are sorted, and the piece is found on which the gap is closed.

    Args:
        slope: float (B, ...).
        gap: float (B,).
        down: float (B, ...), how far each element may fall.
        up: float (B, ...), how far it may rise.
        norm: which length is smallest, ``"linf"`` or ``"l2"``.
    """
    direction = slope.sign() * by_sample(gap.sign(), slope)
    room = torch.where(direction > 0, up, down).flatten(1).clamp(0.0, FAR)
    weight = slope.abs().flatten(1)
    largest = weight.amax(1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
    weight, need = weight / largest, gap.abs()[:, None] / largest
    speed = torch.ones_like(weight) if norm == "linf" else weight
    scale = _closing(weight, speed, room, need)
    return direction * (scale * speed).minimum(room).view_as(slope)


def _closing(weight: Tensor, speed: Tensor, room: Tensor, need: Tensor) -> Tensor:
    """The ``l`` at which ``sum(weight min(l speed, room)) = need``, (B, 1); very large where there is none."""
    breaks, order = (room / speed.clamp(min=SLOWEST)).sort(dim=1)
    gains = (weight * room).gather(1, order).cumsum(1)
    rates = (weight * speed).gather(1, order)
    total = rates.sum(1, keepdim=True)
    left = (total - rates.cumsum(1)).clamp(min=0.0)
    piece = (gains + breaks * left < need).sum(1, keepdim=True)
    before = torch.cat([torch.zeros_like(need), gains], dim=1).gather(1, piece)
    rate = torch.cat([total, left], dim=1).gather(1, piece).clamp(min=torch.finfo(weight.dtype).tiny)
    return torch.where(piece < weight.shape[1], (need - before) / rate, ALL)
