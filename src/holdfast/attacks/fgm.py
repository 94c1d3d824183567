"""FGM: one step along the normalised gradient, the attack on word embeddings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from torch import Generator, Tensor

from holdfast.attacks.samples import Norm, per_sample_norm
from holdfast.attacks.seal import Ball, Budget, input_gradient

__all__ = ["FGM"]


@dataclass(frozen=True, kw_only=True)
class FGM:
    r"""Fast gradient method.

    Equation: ``r = eps * g / ||g||_2``, ``g = grad L``, the norm over all elements of a sample, or of the batch.

    Args:
        eps: length of the step. Default 1, for embeddings (``adversarial: {tap: embedding}``), where a unit is 1.
        scope: ``"sample"`` as in the paper, or ``"batch"``: one norm for all samples, as in the widely copied snippet
            (which normalises over the embedding matrix).

    Paper: Miyato, Dai, Goodfellow, ICLR 2017, equation 7.
    """

    eps: Budget = 1.0
    scope: Literal["sample", "batch"] = "sample"
    norm: Norm = field(default="l2", init=False)

    def craft(self, loss: Callable[[Tensor], Tensor], x: Tensor, ball: Ball, generator: Generator) -> Tensor:
        """One step of the length of the budget."""
        gradient = input_gradient(loss, x)
        if self.scope == "sample":
            return ball.peak(gradient)
        return ball.project(x + ball.radius * gradient / per_sample_norm(gradient.flatten()[None]).squeeze())

    def passes(self) -> tuple[float, float]:
        """One forward and one backward to the perturbed tensor, which costs about half of a full backward."""
        return 1.0, 0.5
