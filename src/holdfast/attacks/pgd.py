"""PGD: many small projected steps of the input gradient, from random starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Generator, Tensor

from holdfast.attacks.aim import Aim
from holdfast.attacks.seal import Ball, Budget, Norm, input_gradient
from holdfast.attacks.survivors import Survivors
from holdfast.core.errors import InputError

__all__ = ["PGD"]


@dataclass(frozen=True, kw_only=True)
class PGD:
    r"""Projected gradient descent on the negative loss.

    Equation: ``x_0 = x + U(-eps, eps)``, ``x_{k+1} = project(x_k + alpha * sign(grad_x L(x_k)))``; with
    ``norm="l2"`` steps of length ``alpha`` along the normalised gradient, from a random radius.

    Args:
        eps: budget in units of the leaf, see `Budget`. Published: 8 (of 255) for CIFAR, 76.5 for MNIST.
        alpha: step in units of the leaf; None (default) means ``2.5 * eps / steps``.
        steps: gradient steps. Default 10; 7 to 10 for training, 20 and more for measuring.
        norm: ``"linf"`` (default) or ``"l2"``.
        random_start: begin at a random point of the ball. Default True.
        restarts: independent runs, of which each sample keeps the one with the highest loss. Default 1.

    Raises:
        InputError: fewer than one step or restart; restarts with a loss that is not per sample.

    Paper: Madry et al., ICLR 2018, section 2.1.
    """

    eps: Budget = 8.0
    alpha: float | None = None
    steps: int = 10
    norm: Norm = "linf"
    random_start: bool = True
    restarts: int = 1

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise InputError(f"steps {self.steps}, restarts {self.restarts}", where="PGD", fix="give at least 1")
        if self.restarts > 1 and not self.random_start:
            raise InputError("restarts without a random start are all the same", where="PGD",
                             fix="set random_start=True or restarts=1")  # fmt: skip

    def craft(self, loss: Callable[[Tensor], Tensor], x: Tensor, ball: Ball, generator: Generator) -> Tensor:
        """The last iterate of each run, and of several runs the strongest one by sample; or what broke a sample."""
        if self.restarts == 1 and not isinstance(loss, Aim):  # nobody can be broken and leave
            return self._straight(loss, x, ball, generator)
        live = Survivors(loss, ball)
        for _ in range(self.restarts):
            start = live.among(ball.start(generator)) if self.random_start else x
            if not len(live):
                break
            z = self._run(live, start, x if self.random_start else None)
            if self.restarts == 1:
                live.settle(z)
            elif len(live):
                value, broken = live.look(z)
                live.offer(z, value)
                live.leave(z, broken, {})
                live.end_run()
        return live.found

    def _straight(self, loss: Callable[[Tensor], Tensor], x: Tensor, ball: Ball, generator: Generator) -> Tensor:
        """The last iterate of one run of all samples."""
        z, spare = (ball.start(generator), x) if self.random_start else (x, None)
        step = self._step(ball)
        for _ in range(self.steps):
            spare, z = z, ball.ascend(z, input_gradient(loss, z), step, spare=spare)
        return z

    def _step(self, ball: Ball) -> float | Tensor:
        """Stored size of a step."""
        return ball.radius * (2.5 / self.steps) if self.alpha is None else ball.unit * self.alpha

    def _run(self, live: Survivors, start: Tensor, spare: Tensor | None = None) -> Tensor:
        """The last iterate from ``start``; ``spare`` is memory for the taking."""
        state = {"z": start}
        for _ in range(self.steps):
            _, gradient, broken = live.climb(state["z"])
            state = live.leave(state["z"], broken, {**state, "gradient": gradient})
            if not len(live):
                break
            ball = live.ball
            if spare is not None and len(spare) != len(live):
                spare = None
            spare, state["z"] = state["z"], ball.ascend(state["z"], state["gradient"], self._step(ball), spare=spare)
        return state["z"]

    def passes(self) -> tuple[float, float]:
        """A forward and a backward to the input (about half of a full one) per step; a forward to compare runs."""
        compared = self.restarts if self.restarts > 1 else 0
        return float(self.steps * self.restarts + compared), 0.5 * self.steps * self.restarts
