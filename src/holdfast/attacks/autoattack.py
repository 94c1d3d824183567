"""AutoAttack: the standard ensemble (APGD-CE, APGD-T, FAB-T, Square), each on what the ones before left over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Generator, Tensor

from holdfast.attacks.classes import classified, logit_margin
from holdfast.attacks.seal import Ball, Budget, Norm
from holdfast.attacks.survivors import Survivors
from holdfast.core.contracts import Attack
from holdfast.core.discover import build

__all__ = ["AutoAttack", "standard"]


def standard(steps: int = 100, queries: int = 5000, targets: int = 9) -> dict[str, dict[str, Any]]:
    """Names and options of the members of the standard ensemble, in their order."""
    return {
        "apgd": {"loss": "ce", "steps": steps},
        "apgd_t": {"steps": steps, "targets": targets},
        "fab": {"steps": steps, "targets": targets},
        "square": {"queries": queries},
    }


@dataclass(frozen=True, kw_only=True)
class AutoAttack:
    """The parameter-free ensemble by which published robust accuracies are measured.

    Each sample leaves with the first point that breaks it, where the aim says what broken means; else it keeps the one
    of highest margin.

    Args:
        eps: budget in units of the leaf, see `Budget`. Published: 8 (of 255) for CIFAR, Linf; 0.5 x 255 in L2.
        norm: ``"linf"`` (default) or ``"l2"``.
        steps: gradient steps of APGD, and of FAB and APGD-T towards each target. Default 100; fewer are no standard.
        queries: of Square. Default 5000.
        targets: classes aimed at by APGD-T and FAB-T; at most all wrong ones. Default 9.

    Raises:
        InputError: a task without classes, or with fewer than four.

    Paper: Croce, Hein, ICML 2020, section 5.
    """

    eps: Budget = 8.0
    norm: Norm = "linf"
    steps: int = 100
    queries: int = 5000
    targets: int = 9

    def members(self) -> list[Attack]:
        """The four attacks, with this budget and norm."""
        options = standard(self.steps, self.queries, self.targets)
        return [replace(build("attack", {name: own}), eps=self.eps, norm=self.norm) for name, own in options.items()]

    def craft(self, loss: Callable[[Tensor], Tensor], x: Tensor, ball: Ball, generator: Generator) -> Tensor:
        """The points that broke the samples, or the strongest of all members."""
        live = Survivors(classified(loss, logit_margin, who="AutoAttack", classes=4), ball, wait=1)
        live.leave(x, live.look(x)[1], {})
        for member in self.members():
            if not len(live):
                break
            z = live.ball.project(member.craft(live.aim, live.ball.x.clone(), live.ball, generator))
            value, broken = live.look(z)
            live.offer(z, value)
            live.leave(z, broken, {})
        return live.found

    def passes(self) -> tuple[float, float]:
        """At most, where no sample leaves: those of the members, and a forward before them and after each."""
        members = [member.passes() for member in self.members()]
        return sum(forwards for forwards, _ in members) + len(members) + 1, sum(backwards for _, backwards in members)
