"""How far weights travelled from where they began: four distances and the one of lazy training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from holdfast.core.errors import InputError
from holdfast.weights.tree import State

__all__ = ["Travel", "permuted", "travel"]


@dataclass(frozen=True, kw_only=True)
class Travel:
    """Distances between two states over some of their tensors; they rank layers differently, so say which is meant.

    Args:
        l2: ``||w - w_0||_2``.
        rms: ``||w - w_0||_2 / sqrt(numel)``.
        linf: ``max |w - w_0|``.
        relative: ``||w - w_0||_2 / ||w_0||_2``; infinite for weights that began at zero and moved.
        row: ``max_s ||w_s - w_{s,0}||_2 sqrt(m)`` over the ``m`` rows (first dimension) of each weight of two or more
            dimensions: the empirical ``C_0`` of lazy training (Wang et al. 2022); NaN where there is no such weight.
    """

    l2: float
    rms: float
    linf: float
    relative: float
    row: float


def travel(start: State, end: State, names: Sequence[str]) -> Travel:
    """The distances between two states, in fp64.

    Args:
        start: state dict at the start.
        end: state dict at the end.
        names: the tensors that count, e.g. those of one layer.

    Raises:
        InputError: no names, or a name that one of the states lacks.
    """
    if missing := [name for name in names if name not in start or name not in end]:
        raise InputError(f"{missing[0]!r} is not in both states", where="travel", fix="give states of one architecture")
    if not names:
        raise InputError("no tensors are named", where="travel", fix="name those of a layer")
    moves = {name: end[name].detach().double() - start[name].detach().double() for name in names}
    squares = sum(float(move.square().sum()) for move in moves.values())
    began = math.sqrt(sum(float(start[name].detach().double().square().sum()) for name in names))
    l2, numel = math.sqrt(squares), sum(move.numel() for move in moves.values())
    rows = [float(move.flatten(1).norm(dim=1).max()) * math.sqrt(len(move)) for move in moves.values() if move.ndim > 1]
    return Travel(
        l2=l2, rms=l2 / math.sqrt(numel), linf=max(float(move.abs().max()) for move in moves.values()),
        relative=l2 / began if began else math.inf if l2 else 0.0, row=max(rows, default=math.nan),
    )  # fmt: skip


def permuted(start: State, names: Sequence[str], generator: torch.Generator) -> State:
    """A fresh draw of some tensors from the law that the recorded ones came from: their own entries, shuffled.

    Exact for any law under which the entries of a tensor are independent and alike (He, Xavier, PyTorch's own,
    constants); orthogonal or structured initialisations need to be drawn anew by whatever made them.

    Args:
        start: state dict of checkpoint 0.
        names: the tensors to draw.
        generator: on the CPU.
    """
    return {
        name: start[name].flatten()[torch.randperm(start[name].numel(), generator=generator)].view_as(start[name])
        for name in names
    }
