"""AWP: adversarial weight perturbation, relative to each layer's own size; a cure for robust overfitting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.core.contracts import Step
from holdfast.core.errors import InputError
from holdfast.methods.weight_ascent import ascent_gradient

__all__ = ["AWP"]


@dataclass(frozen=True, kw_only=True)
class AWP:
    r"""Perturb each layer's weights by a fraction of their norm to raise the step's loss, attacked inputs included.

    Equation: ``v_l = gamma ||w_l|| / ||g_l|| * g_l`` for each weight tensor of two or more dimensions; the step is
    taken with the gradient at ``w + v``. List an adversarial method in the recipe: its inputs are crafted at ``w``.

    The published code finds the direction by one SGD step of a copy of the model; that is the gradient's direction.

    Args:
        gamma: size relative to the weights. Default 0.01 (adversarial training); 0.005 with TRADES.
        start_step: plain steps before it begins; the authors warm up for about 5 to 10 epochs. Default 0.

    Raises:
        InputError: a negative setting. NoEffectError: the loss depends on no parameter.

    Paper: Wu, Xia, Wang, NeurIPS 2020, equations 8 to 10.
    """

    gamma: float = 0.01
    start_step: int = 0

    def __post_init__(self) -> None:
        if self.gamma < 0 or self.start_step < 0:
            raise InputError(f"gamma {self.gamma}, start_step {self.start_step}", where="AWP",
                             fix="use no negative numbers")  # fmt: skip

    def delta(self, parameters: Mapping[str, Tensor], loss: Callable[[Mapping[str, Tensor]], Tensor],
              step: Step) -> Mapping[str, Tensor]:  # fmt: skip
        """One ascent step of each layer, as long as ``gamma`` times its weights."""
        if self.gamma == 0 or step.index < self.start_step:
            return {}
        gradients = ascent_gradient(parameters, loss, who="AWP")
        return {name: self._scaled(parameters[name].detach(), g) for name, g in gradients.items() if g.ndim > 1}

    def _scaled(self, weight: Tensor, gradient: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(gradient)
        size: Tensor = torch.linalg.vector_norm(weight)
        return gradient * (self.gamma * size / length.clamp(min=torch.finfo(gradient.dtype).tiny))

    def passes(self) -> tuple[float, float]:
        """A second forward and backward."""
        return 1.0, 1.0
