"""One run of APGD: projected ascent with momentum that halves its step where it makes no progress."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from holdfast.attacks.geometry import Ball
from holdfast.attacks.samples import by_sample
from holdfast.attacks.survivors import State, Survivors
from holdfast.core.errors import InputError

__all__ = ["auto_step", "checkpoints"]

FIRST_STEP, MOMENTUM = 2.0, 0.75


def auto_step(live: Survivors, start: Tensor, *, steps: int, rho: float) -> None:
    r"""Raise the aim from ``start``; what is found is left with ``live``.

    Equations: ``z = project(x_k + eta g)``, ``x_{k+1} = project(x_k + a (z - x_k) + (1 - a) (x_k - x_{k-1}))`` with
    ``a = 0.75`` (1 in the first step), ``eta = 2 eps`` at first. At the checkpoints, ``eta`` is halved and the run goes
    on from the best point where fewer than ``rho`` of the steps since the last checkpoint raised the loss, or where
    neither step nor best loss changed since then.

    Args:
        live: the samples, with what is raised.
        start: where to begin, one point per survivor and run.
        steps: gradient steps.
        rho: share of steps that have to raise the loss.

    Paper: Croce, Hein, "Reliable evaluation of adversarial robustness ...", ICML 2020, algorithm 1. Where the two
    differ this is the published code (a share of exactly ``rho`` is not enough, the first checkpoint asks for nothing
    else, and a step from the best point is compared with the point that was left), but for one slip of it: the first
    step counts as progress if it raised the loss, not if the loss is positive.
    """
    state: State = {"z": start, "old": start}
    marks = checkpoints(steps)
    for k in range(steps + 1):
        if k < steps:
            value, gradient, broken = live.climb(state["z"])
            state = {**state, "gradient": gradient}
        else:
            value, broken = live.look(state["z"])
        if value.ndim != 1:
            raise InputError(f"one loss per sample is needed, got shape {tuple(value.shape)}", where="APGD",
                             fix="return a tensor (B,) from the loss")  # fmt: skip
        state = live.leave(state["z"], broken, {**state, "value": value})
        if not len(live):
            return
        state = _noted(state) if k else _begun(state)
        if k == steps:
            break
        if k in marks:
            state = _halved(state, needed=rho * (k - max((mark for mark in marks if mark < k), default=0)))
        state = _moved(state, live.ball, first=k == 0)
    live.offer(state["best"], state["best_value"])


def checkpoints(steps: int) -> frozenset[int]:
    """After which steps the step size is reconsidered: ``ceil(p_j steps)``, ``p`` = 0.22, 0.41, 0.57, 0.70, ..."""
    found, before, share = set(), 0.0, 0.22
    while share <= 1:
        found.add(math.ceil(round(share * steps, 6)))
        before, share = share, share + max(share - before - 0.03, 0.06)
    return frozenset(found)


def _begun(state: State) -> State:
    value, zeros = state["value"], torch.zeros_like(state["value"])
    return {
        **state, "last": value, "best_value": value, "best": state["z"], "best_gradient": state["gradient"],
        "eta": zeros + FIRST_STEP, "rises": zeros, "marked_value": value, "was_halved": zeros == 0,
    }  # fmt: skip


def _noted(state: State) -> State:
    """Whether the last step raised the loss, and the best point so far."""
    value, better = state["value"], state["value"] > state["best_value"]
    chosen = {
        f"best{name}": torch.where(by_sample(better, state[now]), state[now], state[f"best{name}"])
        for name, now in (("", "z"), ("_gradient", "gradient"), ("_value", "value"))
    }
    return {**state, **chosen, "rises": state["rises"] + (value > state["last"]), "last": value}


def _halved(state: State, *, needed: float) -> State:
    """Half the step, from the best point, where there was too little progress."""
    stuck = ~state["was_halved"] & (state["marked_value"] >= state["best_value"])
    slow = (state["rises"] <= needed) | stuck
    where = by_sample(slow, state["z"])
    return {
        **state,
        "z": torch.where(where, state["best"], state["z"]),
        "gradient": torch.where(where, state["best_gradient"], state["gradient"]),
        "eta": torch.where(slow, state["eta"] / 2, state["eta"]),
        "rises": torch.zeros_like(state["rises"]),
        "marked_value": state["best_value"],
        "was_halved": slow,
    }


def _moved(state: State, ball: Ball, *, first: bool) -> State:
    z, old = state["z"], state["old"]
    ahead = ball.ascend(z, state["gradient"], ball.radius * by_sample(state["eta"], z))
    if not first:
        ahead = ball.project(torch.lerp(z, ahead, MOMENTUM).add_(z - old, alpha=1 - MOMENTUM))
    return {**state, "z": ahead, "old": z}
