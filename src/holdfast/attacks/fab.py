"""FAB-T: the smallest perturbation that reaches one of the most likely wrong classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from holdfast.attacks.classes import classified, logits_of, missed, runners_up, towards
from holdfast.attacks.hyperplane import nearest_on
from holdfast.attacks.samples import by_sample, per_sample_length
from holdfast.attacks.seal import Ball, Budget, Norm
from holdfast.attacks.survivors import State, Survivors
from holdfast.core.errors import InputError

__all__ = ["FAB"]

NOT_FOUND, SMALLEST, HAIR = 1e10, 1e-8, 2e-5


@dataclass(frozen=True, kw_only=True)
class FAB:
    r"""Fast adaptive boundary attack towards given classes, without random starts.

    Equations: with ``f = z_t - z_y`` linearised at ``x_k``, ``d_1`` and ``d_2`` are the smallest steps (inside the
    valid range) from ``x_k`` and from the clean ``x`` to ``f = 0``; ``a = min(|d_1| / (|d_1| + |d_2|), alpha_max)``;
    ``x_{k+1} = (1 - a)(x_k + eta d_1) + a (x + eta d_2)``, and from a point that is misclassified back to
    ``x + beta (x_{k+1} - x)``. The budget does not guide it: it says which of the points found count. Targets are taken
    one after the other, or side by side where the batch is small.

    Args:
        eps: budget in units of the leaf, see `Budget`. Published: 8 (of 255) for CIFAR.
        norm: ``"linf"`` (default) or ``"l2"``.
        steps: linearisations towards each target. Default 100.
        targets: how many of the most likely wrong classes of the clean sample; at most all of them. Default 9.
        alpha_max: most weight of the clean sample. Default 0.1.
        eta: overshoot past the boundary. Default 1.05.
        beta: how far to go back. Default 0.9.

    Raises:
        InputError: fewer than one step or target; a task without classes.

    Paper: Croce, Hein, "Minimally distorted adversarial examples ...", ICML 2020, algorithm 1 and section 3.4.
    """

    eps: Budget = 8.0
    norm: Norm = "linf"
    steps: int = 100
    targets: int = 9
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9

    def __post_init__(self) -> None:
        if self.steps < 1 or self.targets < 1:
            raise InputError(f"steps {self.steps}, targets {self.targets}", where="FAB", fix="give at least 1")

    def craft(self, loss: Callable[[Tensor], Tensor], x: Tensor, ball: Ball, generator: Generator) -> Tensor:
        """The nearest misclassified point found, or where the last run ended."""
        aim = classified(loss, towards, who="FAB")
        live = Survivors(aim, ball)
        with torch.no_grad():
            clean = aim.outputs(x)
            logits = logits_of(clean, who="FAB")
            targets = runners_up(aim, logits, min(self.targets, logits.shape[1] - 1))
            # What is wrong already needs no step.
            live.offer(x, torch.where(missed(aim, logits), 0.0, -torch.inf))
            live.leave(x, aim.broken(x, clean), {})
        for group in torch.split(targets, live.abreast, dim=1):
            if len(live):
                live.aim_at(group)
                self._run(live)
                live.end_run()
        return live.found

    def _run(self, live: Survivors) -> None:
        z = live.ball.x.clone()
        distance = torch.full((len(z),), NOT_FOUND, dtype=torch.promote_types(z.dtype, torch.float32), device=z.device)
        none = torch.zeros_like(distance)
        state: State = {"z": z, "best": z, "distance": distance, "near": none, "far": none.clone()}
        for _ in range(self.steps):
            value, gradient, _ = live.climb(state["z"])
            with torch.no_grad():
                z = self._step(live.ball, state, value, gradient)
                logits = live.aim.outputs(z)
                distance = per_sample_length(live.ball.scaled(z), live.ball.norm)
                state = self._noted(live.ball, z, state, missed(live.aim, logits), distance)
                # Within the budget a point breaks its sample.
                state = live.leave(z, live.aim.broken(z, logits, among=distance <= 1.0 - HAIR), state)
            if not len(live):
                return
        found = by_sample(state["distance"] < NOT_FOUND, state["z"])
        live.offer(torch.where(found, state["best"], state["z"]), -state["distance"])

    def _step(self, ball: Ball, state: State, value: Tensor, gradient: Tensor) -> Tensor:
        """To the boundary, with a pull towards the clean sample; everything is counted in budgets.

        From step to step the boundary turns little: what was found is where the next search begins.
        """
        z = state["z"]
        delta, slope = ball.scaled(z), ball.radius * gradient
        ahead = (slope * delta).flatten(1).sum(1)
        falls, rises = ball.room
        near = nearest_on(slope, -value, falls + delta, rises - delta, ball.norm, state["near"])
        far = nearest_on(slope, ahead - value, falls, rises, ball.norm, state["far"])
        lengths = [per_sample_length(step, ball.norm).clamp(min=SMALLEST) for step in (near, far)]
        pull = by_sample((lengths[0] / (lengths[0] + lengths[1])).clamp(max=self.alpha_max), z)
        delta = near.mul_(self.eta).add_(delta).mul_(1 - pull).add_(far.mul_(pull * self.eta))
        return (ball.x + delta.mul_(ball.radius)).clamp_(*ball.range).to(z.dtype)

    def _noted(self, ball: Ball, z: Tensor, state: State, wrong: Tensor, distance: Tensor) -> State:
        """The nearest misclassified point so far; from one that is, the way leads back."""
        nearer = wrong & (distance < state["distance"])
        return {
            **state,
            "z": torch.lerp(ball.x, z, by_sample(torch.where(wrong, self.beta, 1.0).to(z.dtype), z)),
            "best": torch.where(by_sample(nearer, z), z, state["best"]),
            "distance": torch.where(nearer, distance, state["distance"]),
        }

    def passes(self) -> tuple[float, float]:
        """At most, where there are enough classes: two forwards and a backward to the input per step and target."""
        return 1.0 + 2 * self.steps * self.targets, 0.5 * self.steps * self.targets
