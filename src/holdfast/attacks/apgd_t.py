"""APGD-T: Auto-PGD towards the most likely wrong classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from holdfast.attacks.auto_step import auto_step
from holdfast.attacks.classes import classified, logits_of, runners_up, targeted_dlr
from holdfast.attacks.seal import Ball, Budget, Norm
from holdfast.attacks.survivors import Survivors
from holdfast.core.errors import InputError

__all__ = ["APGDT"]


@dataclass(frozen=True, kw_only=True)
class APGDT:
    """Auto-PGD on the targeted difference of logits ratio, see `holdfast.attacks.classes.targeted_dlr`.

    Each sample keeps the point that broke it, or the one of the highest ratio. Targets are taken one after the other,
    or side by side where the batch is small.

    Args:
        eps: budget in units of the leaf, see `Budget`. Published: 8 (of 255) for CIFAR.
        norm: ``"linf"`` (default) or ``"l2"``.
        steps: gradient steps towards each target. Default 100.
        targets: how many of the most likely wrong classes of the clean sample; at most all of them. Default 9.
        rho: see `holdfast.attacks.apgd.APGD`. Default 0.75.

    Raises:
        InputError: fewer than one step or target; a task without classes, or with fewer than four.

    Paper: Croce, Hein, ICML 2020, equation 7.
    """

    eps: Budget = 8.0
    norm: Norm = "linf"
    steps: int = 100
    targets: int = 9
    rho: float = 0.75

    def __post_init__(self) -> None:
        if self.steps < 1 or self.targets < 1:
            raise InputError(f"steps {self.steps}, targets {self.targets}", where="APGD-T", fix="give at least 1")

    def craft(self, loss: Callable[[Tensor], Tensor], x: Tensor, ball: Ball, generator: Generator) -> Tensor:
        """The strongest point of the runs towards all targets."""
        aim = classified(loss, targeted_dlr, who="APGD-T", classes=4)
        live = Survivors(aim, ball)
        with torch.no_grad():
            clean = aim.outputs(x)
            logits = logits_of(clean, who="APGD-T", classes=4)
            targets = runners_up(aim, logits, min(self.targets, logits.shape[1] - 1))
            live.leave(x, aim.broken(x, clean), {})
        for group in torch.split(targets, live.abreast, dim=1):
            starts = [live.among(ball.edge(generator)) for _ in range(group.shape[1])]
            if len(live):
                live.aim_at(group)
                auto_step(live, torch.cat(starts), steps=self.steps, rho=self.rho)
                live.end_run()
        return live.found

    def passes(self) -> tuple[float, float]:
        """At most, where there are enough classes: APGD's passes for each target, and a clean forward."""
        return 1.0 + (self.steps + 1) * self.targets, 0.5 * self.steps * self.targets
