"""The averages of `holdfast.weights` as the papers write them: fp64, one entry at a time, no fused updates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

State = dict[str, Tensor]


def snapshot(model: nn.Module) -> State:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def ema(states: Sequence[State], decay: float, *, warmup: bool, debias: bool) -> State:
    """``states[0]`` is the model at the start, the others what it was after each step."""
    average = {}
    for name, first in states[0].items():
        if not first.is_floating_point():
            average[name] = states[-1][name]
            continue
        value = torch.zeros_like(first, dtype=torch.float64) if debias else first.double()
        kept = 1.0
        for t, state in enumerate(states[1:]):
            d = min(decay, (1 + t) / (10 + t)) if warmup else decay
            value = d * value + (1 - d) * state[name].double()
            kept *= d
        average[name] = (value / (1 - kept) if debias else value).to(first.dtype)
    return average


def equal_mean(states: Sequence[State]) -> State:
    mean = {}
    for name, first in states[0].items():
        if first.is_floating_point():
            mean[name] = (sum(state[name].double() for state in states) / len(states)).to(first.dtype)
        else:
            mean[name] = states[-1][name]
    return mean


def profile_average(states: Sequence[State], gamma: float) -> State:
    """The power-function average as its recursion, ``states[0]`` being the iterate of step 1."""
    average = dict(states[0])
    for t, state in enumerate(states[1:], start=2):
        beta = (1 - 1 / t) ** (gamma + 1)
        for name, value in state.items():
            if value.is_floating_point():
                average[name] = beta * average[name].double() + (1 - beta) * value.double()
            else:
                average[name] = value
    return average
