"""What consistency methods share: a term on the divergence between two views' outputs, and its crafted view."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from holdfast.attacks.seal import BNDuringAttack, crafting
from holdfast.core.contracts import Attack, Batch, Outputs, Step, Term
from holdfast.core.errors import InputError
from holdfast.methods.rewriting import Leaves, attacked

__all__ = ["detached", "divergence_of", "divergence_term", "diverging_view", "unlabelled_of"]

Divergence = Callable[[Outputs, Outputs, Batch], Tensor]


def divergence_of(step: Step, *, who: str) -> Divergence:
    """The task's divergence.

    Raises:
        InputError: it declares none.
    """
    if step.task.divergence is None:
        raise InputError("the task declares no divergence between outputs", where=who,
                         fix="give Task(divergence=...): KL for logits, Huber for values")  # fmt: skip
    return step.task.divergence


def unlabelled_of(step: Step, *, who: str) -> Batch:
    """The step's unlabelled batch.

    Raises:
        InputError: there is no unlabelled stream.
    """
    if step.unlabelled is None:
        raise InputError("there is no unlabelled stream", where=who,
                         fix="give Objective(..., unlabelled=loader), or data('unlabelled') in the task")  # fmt: skip
    return step.unlabelled


def detached(outputs: Outputs) -> Outputs:
    """Outputs that carry no gradient, for the side of a divergence that is held fixed."""
    if isinstance(outputs, Tensor):  # most are, and a tree takes its time
        return outputs.detach()
    return tree_map(lambda out: out.detach() if isinstance(out, Tensor) else out, outputs)


def diverging_view(
    attack: Attack, view: Batch, step: Step, *, name: str, leaf: Leaves, bn_during_attack: BNDuringAttack,
) -> Batch:  # fmt: skip
    """The view moved to where the outputs diverge most from what they are on ``view`` itself."""
    divergence = divergence_of(step, who=name)
    with crafting(step.model, bn_during_attack), torch.no_grad():
        reference = step.task.forward(step.model, view)
    loss = lambda outputs: divergence(reference, outputs[0], view)  # noqa: E731 - closes over the reference
    [found] = attacked(attack, loss, (view,), step, leaf=leaf, bn_during_attack=bn_during_attack,
                       generator=step.draw(name), who=name)  # fmt: skip
    return found


def divergence_term(
    name: str, view: Batch, other: Batch, step: Step, *, weight: float, hold_reference: bool, **changes: Any,
) -> Term:  # fmt: skip
    """The term ``weight * D(f(view), f(other))``; with ``hold_reference`` no gradient flows through ``f(view)``."""
    divergence = divergence_of(step, who=name)

    def loss(outputs: tuple[Outputs, ...]) -> Tensor:
        reference = detached(outputs[0]) if hold_reference else outputs[0]
        return divergence(reference, outputs[1], view)

    return Term(name=name, views=(view, other), loss=loss, weight=weight, crafted=True, **changes)
