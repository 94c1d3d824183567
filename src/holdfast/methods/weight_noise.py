"""Weight noise: train at randomly perturbed weights, the control for SAM and AWP and a stand-in for rounding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from holdfast.core.contracts import Step
from holdfast.core.errors import InputError

__all__ = ["WeightNoise"]


@dataclass(frozen=True, kw_only=True)
class WeightNoise:
    r"""Add normal noise to each weight tensor, relative to its own size.

    Equation: the step is taken with the gradient at ``w + v``, ``v_l = size * rms(w_l) * N(0, 1)``, for each weight
    tensor of two or more dimensions.

    Args:
        size: relative standard deviation. Default 0.01. Rounding to float16 is about 3e-4, int8 per channel about 5e-3.

    Raises:
        InputError: a negative size.
    """

    size: float = 0.01

    def __post_init__(self) -> None:
        if self.size < 0:
            raise InputError(f"size {self.size} is negative", where="WeightNoise")

    def delta(self, parameters: Mapping[str, Tensor], loss: Callable[[Mapping[str, Tensor]], Tensor],
              step: Step) -> Mapping[str, Tensor]:  # fmt: skip
        """A random perturbation; the loss is not asked."""
        if self.size == 0:
            return {}
        draw = step.draw("weight_noise")
        return {name: self._noise(weight.detach(), draw) for name, weight in parameters.items() if weight.ndim > 1}

    def _noise(self, weight: Tensor, draw: Generator) -> Tensor:
        noise = torch.randn(weight.shape, generator=draw, device=draw.device).to(weight)
        return noise.mul_(torch.linalg.vector_norm(weight) * (self.size / max(weight.numel(), 1) ** 0.5))

    def passes(self) -> tuple[float, float]:
        """None."""
        return 0.0, 0.0
