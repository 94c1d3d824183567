"""FGSM-RS: one sign step that is longer than the budget, from a random start in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Generator, Tensor

from holdfast.attacks.seal import Ball, Budget, Norm, input_gradient
from holdfast.core.errors import InputError

__all__ = ["FGSMRS"]


@dataclass(frozen=True, kw_only=True)
class FGSMRS:
    r"""Fast adversarial training's attack.

    Equation: ``x_0 = x + U(-eps, eps)``, ``x_adv = project(x_0 + step * eps * sign(grad_x L(x_0)))``; with
    ``norm="l2"`` the start has a uniform radius, not a fixed one.

    Training on it alone overfits catastrophically when ``step`` or ``eps`` is larger, or training is long: PGD accuracy
    falls to zero while FGSM accuracy rises. Train under `holdfast.train.guard`.

    Args:
        eps: budget in units of the leaf, see `Budget`. Default 8 (of 255), for CIFAR.
        step: length of the step in budgets. Default 1.25; at eps 12 the authors had to take 13/12.
        norm: ``"linf"`` (default) or ``"l2"``.

    Raises:
        InputError: a step that is not positive.

    Paper: Wong, Rice, Kolter, ICLR 2020, algorithm 3.
    """

    eps: Budget = 8.0
    step: float = 1.25
    norm: Norm = "linf"

    def __post_init__(self) -> None:
        if self.step <= 0:
            raise InputError(f"step {self.step} is not positive", where="FGSMRS", fix="use 1 to 1.25 budgets")

    def craft(self, loss: Callable[[Tensor], Tensor], x: Tensor, ball: Ball, generator: Generator) -> Tensor:
        """One long step from a random start."""
        start = ball.start(generator)
        return ball.ascend(start, input_gradient(loss, start), ball.radius * self.step)

    def passes(self) -> tuple[float, float]:
        """One forward and one backward to the input, which costs about half of a full backward."""
        return 1.0, 0.5
