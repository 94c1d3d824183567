"""APGD: projected ascent without a step size to choose, on the task's error, cross-entropy or DLR."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Generator, Tensor

from holdfast.attacks.auto_step import auto_step
from holdfast.attacks.classes import classified, cross_entropy, dlr
from holdfast.attacks.seal import Ball, Budget, Norm
from holdfast.attacks.survivors import Survivors
from holdfast.core.errors import InputError

__all__ = ["APGD"]


@dataclass(frozen=True, kw_only=True)
class APGD:
    """Auto-PGD, see `holdfast.attacks.auto_step`.

    Each sample keeps the point of highest loss, or the one that broke it.

    Args:
        eps: budget in units of the leaf, see `Budget`. Published: 8 (of 255) for CIFAR.
        norm: ``"linf"`` (default) or ``"l2"``.
        loss: what is raised. ``"task"`` (default): the task's own error, for any task. For classification also
            ``"ce"``, cross-entropy, and ``"dlr"``, the difference of logits ratio, which the scale of the logits cannot
            flatten; it needs three classes.
        steps: gradient steps. Default 100, as in the standard ensemble.
        restarts: independent runs from random points of the ball's edge. Default 1.
        rho: share of steps that must raise the loss for the step size to be kept. Default 0.75.

    Raises:
        InputError: fewer than one step or restart; a loss that is not per sample; a classification loss for another
            task.

    Paper: Croce, Hein, ICML 2020, algorithm 1 and equation 6.
    """

    eps: Budget = 8.0
    norm: Norm = "linf"
    loss: Literal["task", "ce", "dlr"] = "task"
    steps: int = 100
    restarts: int = 1
    rho: float = 0.75

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise InputError(f"steps {self.steps}, restarts {self.restarts}", where="APGD", fix="give at least 1")
        if self.loss not in ("task", "ce", "dlr"):
            raise InputError(f"unknown loss {self.loss!r}", where="APGD", fix="use 'task', 'ce' or 'dlr'")

    def craft(self, loss: Callable[[Tensor], Tensor], x: Tensor, ball: Ball, generator: Generator) -> Tensor:
        """The strongest point of all runs."""
        if self.loss == "ce":
            loss = classified(loss, cross_entropy, who="APGD-CE")
        elif self.loss == "dlr":
            loss = classified(loss, dlr, who="APGD-DLR", classes=3)
        live = Survivors(loss, ball)
        for _ in range(self.restarts):
            start = live.among(ball.edge(generator))
            if len(live):
                auto_step(live, start, steps=self.steps, rho=self.rho)
                live.end_run()
        return live.found

    def passes(self) -> tuple[float, float]:
        """A forward and a backward to the input (about half of a full one) per step; a forward for the last point."""
        return float((self.steps + 1) * self.restarts), 0.5 * self.steps * self.restarts
