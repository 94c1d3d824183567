"""Output scale: one number that makes training lazy or rich."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from holdfast.core.contracts import Outputs
from holdfast.core.errors import InputError

__all__ = ["OutputScale", "Scaled"]


@dataclass(frozen=True, kw_only=True)
class OutputScale:
    r"""Scale the model's outputs, optionally relative to those at the start.

    Equation: ``F(x) = alpha (f(x) - f_0(x))``, with ``f_0`` frozen at the initialisation. A large ``alpha`` needs only
    small moves of the weights and is *lazy*: the network stays near its linearisation. A small one is *rich*.

    The published setting divides the loss by ``alpha^2``: with SGD divide the learning rate by it, with Adam nothing
    changes. The scaled model is what is trained *and* deployed; with ``centred`` it runs ``f_0``, too, whose BatchNorm
    statistics are tracked like the model's.

    Args:
        alpha: factor. Default 1. Recommended 0.1 (rich) to 100 (lazy).
        centred: subtract the outputs at the start. Default True, without which a large ``alpha`` starts far off.

    Raises:
        InputError: a factor that is not positive.

    Paper: Chizat, Oyallon, Bach, NeurIPS 2019, equation 2.
    """

    alpha: float = 1.0
    centred: bool = True

    def __post_init__(self) -> None:
        if self.alpha <= 0:
            raise InputError(f"alpha {self.alpha} is not positive", where="OutputScale", fix="use 0.1 to 100")

    def apply(self, model: nn.Module, example: tuple[Tensor, ...]) -> nn.Module:
        """The scaled model."""
        return Scaled(model, self.alpha, copy.deepcopy(model) if self.centred else None)

    def strip(self, model: nn.Module) -> nn.Module:
        """The scaled model: the scale is part of the function."""
        return model


class Scaled(nn.Module):
    """``alpha (model(x) - start(x))``, or ``alpha model(x)`` without a start, for every floating-point output."""

    def __init__(self, model: nn.Module, alpha: float, start: nn.Module | None) -> None:
        super().__init__()
        self.model, self.alpha = model, alpha
        self.start = start.requires_grad_(False) if start is not None else None

    def train(self, mode: bool = True) -> Scaled:
        """The mode of both; the start never drops anything out."""
        super().train(mode)
        for module in self.start.modules() if self.start is not None else ():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.training = False
        return self

    def forward(self, *inputs: Any, **call: Any) -> Outputs:
        """Scaled outputs."""
        outputs = self.model(*inputs, **call)
        if self.start is None:
            return tree_map(self._scaled, outputs)
        with torch.no_grad():
            before = self.start(*inputs, **call)
        return tree_map(lambda now, then: self._scaled(now - then) if _floats(now) else now, outputs, before)

    def _scaled(self, output: Any) -> Any:
        return self.alpha * output if _floats(output) else output


def _floats(output: Any) -> bool:
    return isinstance(output, Tensor) and output.is_floating_point()
