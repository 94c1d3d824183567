"""Power iteration: the direction in which a divergence curves most, found without labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from holdfast.attacks.samples import Norm, per_sample_norm
from holdfast.attacks.seal import Ball, Budget, input_gradient
from holdfast.core.errors import InputError

__all__ = ["PowerIteration"]


@dataclass(frozen=True, kw_only=True)
class PowerIteration:
    r"""Virtual adversarial direction of a loss that is smallest at the clean input.

    Equation: ``d_0`` a random unit vector, ``d_{k+1} = grad_d L(x + xi d_k)``, each normalised; result ``x + eps d_K``.
    As ``L`` has no gradient at ``x`` and curvature ``H``, ``grad_d`` is about ``xi H d``: power iteration on ``H``.

    Args:
        eps: length of the perturbation over all elements of a sample, in units of the leaf. Default 255: length 1 for
            an image in 0..1.
        xi: probing length in units. Default 25; the paper's 1e-6 drowns in the rounding of float32.
        iterations: default 1, as in the paper.

    Raises:
        InputError: fewer than one iteration, or a probing length that is not positive.

    Paper: Miyato et al., TPAMI 2019, algorithm 1.
    """

    eps: Budget = 255.0
    xi: float = 25.0
    iterations: int = 1
    norm: Norm = field(default="l2", init=False)

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.xi <= 0:
            raise InputError(f"iterations {self.iterations}, xi {self.xi}", where="PowerIteration",
                             fix="use at least 1 iteration and a positive xi")  # fmt: skip

    def craft(self, loss: Callable[[Tensor], Tensor], x: Tensor, ball: Ball, generator: Generator) -> Tensor:
        """The last direction at the length of the budget."""
        direction = torch.randn(x.shape, generator=generator, device=generator.device).to(x)
        for i in range(self.iterations):
            probe = torch.addcmul(x, direction, self.xi * ball.unit / per_sample_norm(direction))
            gradient = input_gradient(loss, probe)
            if i + 1 < self.iterations:  # in units, so that leaves and channels of other scales count alike
                direction = gradient * ball.unit
        return ball.peak(gradient, spare=x)

    def passes(self) -> tuple[float, float]:
        """A forward and a backward to the input, about half of a full one, per iteration."""
        return float(self.iterations), 0.5 * self.iterations
