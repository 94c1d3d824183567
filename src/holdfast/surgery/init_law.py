"""Initialisation law: He, Xavier, orthogonal, LSUV or PyTorch's own, as a choice in a recipe."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from holdfast.core.errors import InputError, NoEffectError
from holdfast.surgery.layers import Weighted, weighted_layers
from holdfast.surgery.tapped import evaluating, read_tap

__all__ = ["InitLaw"]

Law: TypeAlias = Literal["he", "xavier", "orthogonal", "lsuv", "default"]


@dataclass(frozen=True, kw_only=True)
class InitLaw:
    r"""Draw the weights of all convolutions and linear layers anew; biases become zero.

    ``he``: ``N(0, 2 / fan_in)``; ``xavier``: ``N(0, 2 / (fan_in + fan_out))``; ``orthogonal``: orthonormal rows or
    columns, times ``sqrt(2)``; ``lsuv``: orthonormal, then layer by layer divided until the output on the example has
    variance one; ``default``: PyTorch's own, ``U(+-1 / sqrt(fan_in))`` with biases: a sixth of He's variance, so that
    signals shrink 2.45 times with each ReLU layer.

    Draws come from torch's global generator: seed it around `apply`, as holdfast's loop does with the init seed.

    Args:
        law: default ``"he"``.
        gain: factor on the weights; below one is richer, above one lazier. Default 1.
        skip: names of layers to leave as they are.

    Raises:
        NoEffectError: the model has no such layer, or LSUV meets one that is constant on the example.
        InputError: an unknown law, a gain that is not positive, a name in ``skip`` that is not there.

    Papers: He et al., ICCV 2015; Glorot and Bengio, AISTATS 2010; Saxe et al., ICLR 2014; Mishkin and Matas, ICLR 2016.
    """

    law: Law = "he"
    gain: float = 1.0
    skip: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.law not in (*_DRAWS, "default") or self.gain <= 0:
            raise InputError(f"law {self.law!r}, gain {self.gain}", where="InitLaw",
                             fix=f"use one of {sorted([*_DRAWS, 'default'])} and a positive gain")  # fmt: skip

    def apply(self, model: nn.Module, example: tuple[Tensor, ...]) -> nn.Module:
        """The same model with other weights."""
        layers = weighted_layers(model, example, skip=self.skip, who="InitLaw")
        with torch.no_grad():
            for layer in layers.values():
                _draw(layer, self.law)
            if self.law == "lsuv":
                _unit_variance(model, layers, example)
            for layer in layers.values():
                layer.weight.mul_(self.gain)
        return model

    def strip(self, model: nn.Module) -> nn.Module:
        """The same model."""
        return model


def _draw(layer: Weighted, law: Law) -> None:
    if law == "default":
        layer.reset_parameters()
        return
    _DRAWS[law](layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _orthogonal(weight: Tensor, gain: float) -> None:
    # Drawn beside the weight: PyTorch's function cannot view one that is in channels_last.
    drawn = nn.init.orthogonal_(torch.empty(weight.shape, dtype=weight.dtype, device=weight.device), gain)
    with torch.no_grad():
        weight.copy_(drawn)


_DRAWS: Mapping[str, Callable[[Tensor], object]] = {
    "he": lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"),
    "xavier": nn.init.xavier_normal_,
    "orthogonal": lambda weight: _orthogonal(weight, math.sqrt(2)),
    "lsuv": lambda weight: _orthogonal(weight, 1.0),
}


def _unit_variance(model: nn.Module, layers: Mapping[str, Weighted], example: tuple[Tensor, ...]) -> None:
    """Divide each layer by the deviation of its output, in the order of the forward; twice, for layers called twice."""
    with evaluating(model):
        for name, layer in layers.items():
            for _ in range(2):
                deviation = read_tap(lambda: model(*example), model, name).std()
                if not bool(deviation > 1e-8):
                    raise NoEffectError(f"the output of {name!r} is constant on the example", where="InitLaw, lsuv",
                                        fix="give a larger example, or put the layer into `skip`")  # fmt: skip
                layer.weight.div_(deviation)
