"""Attacks on inner tensors: what is added to a tap so that the loss rises."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor, nn

from holdfast.attacks.aim import UNBOUNDED
from holdfast.attacks.seal import BNDuringAttack, crafting, perturb
from holdfast.core.contracts import Attack, Step, Term
from holdfast.core.errors import InputError
from holdfast.core.space import first_tensor
from holdfast.methods.mixing import single_view
from holdfast.surgery.tapped import Tapped, read_tap

__all__ = ["inner_model", "tap_delta", "tap_value"]


def inner_model(step: Step, *, who: str) -> nn.Module:
    """The user's model inside the prepared one.

    Raises:
        InputError: the model was not prepared.
    """
    if not isinstance(step.model, Tapped):
        raise InputError(
            "the model was not prepared for taps", where=who, fix="train objective.prepare(model, example)"
        )
    return step.model.model


def tap_value(term: Term, step: Step, *, tap: str, bn_during_attack: BNDuringAttack = "eval") -> Tensor:
    """What the tap is on the term's view."""
    view = single_view(term, who=tap)
    # Autocast may keep the cast of a weight that requires a gradient, made without one, for the passes to come.
    cast = torch.is_autocast_enabled(first_tensor(view).device.type)
    with crafting(step.model, bn_during_attack, freeze=cast):
        return read_tap(partial(step.task.forward, step.model, view), inner_model(step, who=tap), tap)


def tap_delta(
    attack: Attack, term: Term, step: Step, *, tap: str, bn_during_attack: BNDuringAttack, generator: Generator,
    report: dict[str, Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """The perturbation of a tap that raises the term's loss, within the attack's budget about zero."""
    view = single_view(term, who=tap)

    def loss_at(delta: Tensor) -> Tensor:
        call: dict[str, Any] = {**term.call, "add": {tap: delta}}
        return term.loss((step.task.forward(step.model, view, **call),))

    value = tap_value(term, step, tap=tap, bn_during_attack=bn_during_attack)
    origin = torch.zeros(value.shape, device=value.device)
    return perturb(attack, loss_at, origin, UNBOUNDED, generator, step.model, bn_during_attack, report)
