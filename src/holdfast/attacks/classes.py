"""What attacks on classifiers raise: margins between logits, plain and rescaled (DLR)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from holdfast.attacks.aim import Aim
from holdfast.core.contracts import Outputs
from holdfast.core.errors import InputError

__all__ = [
    "classified",
    "cross_entropy",
    "dlr",
    "logit_margin",
    "logits_of",
    "missed",
    "runners_up",
    "targeted_dlr",
    "towards",
]

TINY = 1e-12


def classified(loss: Callable[[Any], Tensor], raised: Callable[[Aim, Tensor], Tensor], *, who: str,
               classes: int = 2) -> Aim:  # fmt: skip
    """The aim of an attack on a classifier: ``raised`` of its logits (B, K).

    Args:
        loss: what the attack was given.
        raised: one of this file.
        who: names the attack in errors.
        classes: how many classes it needs.

    Raises:
        InputError: a task without classes; on evaluation, outputs that are no logits, too few classes.
    """
    if not isinstance(loss, Aim) or loss.labels is None:
        raise InputError("is for classification: the task declares no `labels`", where=who,
                         fix="use fgsm, pgd or apgd, which raise the error of any task")  # fmt: skip
    return replace(loss, raised=lambda aim, outputs: raised(aim, logits_of(outputs, who=who, classes=classes)))


def logits_of(outputs: Outputs, *, who: str, classes: int = 2) -> Tensor:
    """The outputs, if they are logits float (B, K) of at least so many classes.

    Raises:
        InputError: they are not.
    """
    if not isinstance(outputs, Tensor) or outputs.ndim != 2:
        shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise InputError(f"needs logits (B, K), got {shape}", where=who, fix="let the model return its logits alone")
    if outputs.shape[1] < classes:
        raise InputError(f"needs {classes} classes, the model has {outputs.shape[1]}", where=who,
                         fix="use apgd, which raises the task's error")  # fmt: skip
    return outputs


def missed(aim: Aim, logits: Tensor) -> Tensor:
    """Which samples are classified wrongly, bool (B,)."""
    assert aim.labels is not None
    return logits.argmax(1).ne(aim.labels)


def logit_margin(aim: Aim, logits: Tensor) -> Tensor:
    """``max_{k != y} z_k - z_y``, (B,): positive where the decision is wrong."""
    return _others(aim, logits).amax(1) - _of(logits, aim.labels)


def cross_entropy(aim: Aim, logits: Tensor) -> Tensor:
    """``-log softmax(z)_y``, (B,)."""
    assert aim.labels is not None
    return torch.nn.functional.cross_entropy(logits, aim.labels, reduction="none")


def dlr(aim: Aim, logits: Tensor) -> Tensor:
    r"""Difference of logits ratio, (B,): ``-(z_y - max_{k != y} z_k) / (z_{pi_1} - z_{pi_3})``, ``pi`` sorts downwards.

    Neither a shift nor a scale of the logits changes it, so that a large scale cannot flatten the gradient.
    """
    top = logits.topk(3, dim=1).values
    return logit_margin(aim, logits) / (top[:, 0] - top[:, 2] + TINY)


def targeted_dlr(aim: Aim, logits: Tensor) -> Tensor:
    """``-(z_y - z_t) / (z_{pi_1} - (z_{pi_3} + z_{pi_4}) / 2)``, (B,), ``t`` the target."""
    top = logits.topk(4, dim=1).values
    return towards(aim, logits) / (top[:, 0] - 0.5 * (top[:, 2] + top[:, 3]) + TINY)


def towards(aim: Aim, logits: Tensor) -> Tensor:
    """``z_t - z_y``, (B,), ``t`` the target."""
    return _of(logits, aim.targets) - _of(logits, aim.labels)


def runners_up(aim: Aim, logits: Tensor, count: int) -> Tensor:
    """The ``count`` most likely wrong classes of each sample, int64 (B, count)."""
    return _others(aim, logits).topk(count, dim=1).indices


def _of(logits: Tensor, classes: Tensor | None) -> Tensor:
    assert classes is not None
    return logits.gather(1, classes[:, None]).squeeze(1)


def _others(aim: Aim, logits: Tensor) -> Tensor:
    assert aim.labels is not None
    return logits.scatter(1, aim.labels[:, None], -torch.inf)
