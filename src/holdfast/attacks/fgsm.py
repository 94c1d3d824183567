"""FGSM: one step of the input gradient's sign."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Generator, Tensor

from holdfast.attacks.seal import Ball, Budget, Norm, input_gradient

__all__ = ["FGSM"]


@dataclass(frozen=True, kw_only=True)
class FGSM:
    r"""Fast gradient sign method.

    Equation: ``x_adv = clip(x + eps * sign(grad_x L(x)))``, from the clean input, without a random start. With
    ``norm="l2"`` the step goes along the normalised gradient instead.

    Args:
        eps: budget in units of the leaf (1 is one grey level of an 8-bit camera), see `Budget`. Default 0.5, which
            hardens a lane model against another resize kernel; 2 already makes it stiff.
        norm: ``"linf"`` (default) or ``"l2"``.

    Paper: Goodfellow, Shlens, Szegedy, ICLR 2015, section 4.
    """

    eps: Budget = 0.5
    norm: Norm = "linf"

    def craft(self, loss: Callable[[Tensor], Tensor], x: Tensor, ball: Ball, generator: Generator) -> Tensor:
        """One step of the size of the budget."""
        return ball.peak(input_gradient(loss, x), spare=x)

    def passes(self) -> tuple[float, float]:
        """One forward and one backward to the input, which costs about half of a full backward."""
        return 1.0, 0.5
