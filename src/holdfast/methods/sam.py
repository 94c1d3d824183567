"""SAM: minimise the worst loss in a small ball around the weights, which leads to flat minima."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.core.contracts import Step
from holdfast.core.errors import InputError
from holdfast.methods.weight_ascent import ascent_gradient, joint_norm

__all__ = ["SAM"]


@dataclass(frozen=True, kw_only=True)
class SAM:
    r"""Sharpness-aware minimisation, and its scale-invariant form ASAM.

    Equation: ``min L(w + e)``, ``e = rho g / ||g||_2``, ``g`` the gradient at ``w``; adaptive:
    ``e = rho T^2 g / ||T g||`` with ``T = |w| + eta`` element by element. The same terms, draws and attacked inputs are
    seen at both points; BatchNorm statistics are taken at ``w``.

    Args:
        rho: radius. Default 0.05 for SAM; 2.0 for ASAM.
        adaptive: ASAM. Default False.
        eta: keeps ``T`` away from zero. Default 0.01.
        every: do it in every so many steps, plain steps between. Default 1.

    Raises:
        InputError: a negative radius, or ``every`` below 1.
        NoEffectError: the loss depends on no parameter.

    Papers: Foret et al., ICLR 2021, equation 2; Kwon et al., ICML 2021, equation 7.
    """

    rho: float = 0.05
    adaptive: bool = False
    eta: float = 0.01
    every: int = 1

    def __post_init__(self) -> None:
        if self.rho < 0 or self.eta < 0 or self.every < 1:
            raise InputError(f"rho {self.rho}, eta {self.eta}, every {self.every}", where="SAM",
                             fix="use no negative radius and every >= 1")  # fmt: skip

    def delta(self, parameters: Mapping[str, Tensor], loss: Callable[[Mapping[str, Tensor]], Tensor],
              step: Step) -> Mapping[str, Tensor]:  # fmt: skip
        """One normalised ascent step."""
        if self.rho == 0 or step.index % self.every:
            return {}
        gradients = ascent_gradient(parameters, loss, who="SAM")
        if not self.adaptive:
            scale = self.rho / joint_norm(gradients)
            return dict(zip(gradients, torch._foreach_mul(list(gradients.values()), scale), strict=True))
        sizes = {name: parameters[name].detach().abs() + self.eta for name in gradients}
        weighed = {name: sizes[name] * gradient for name, gradient in gradients.items()}
        scale = self.rho / joint_norm(weighed)
        return {name: sizes[name] * value * scale.to(value) for name, value in weighed.items()}

    def passes(self) -> tuple[float, float]:
        """A second forward and backward, in every so many steps."""
        return 1.0 / self.every, 1.0 / self.every
