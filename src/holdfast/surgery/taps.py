"""Taps: makes inner tensors of the model reachable for attacks, such as embeddings or a fused feature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from holdfast.core.errors import InputError
from holdfast.surgery.tapped import Tapped, submodule, tapped

__all__ = ["Taps"]


@dataclass(frozen=True, kw_only=True)
class Taps:
    """Wraps the model so that the named layers can be read and moved through keywords of its call.

    Args:
        layers: dotted names of submodules, each with ``:input`` for its input instead of its output.

    Raises:
        InputError: no layer is named, or a name is not there (naming the nearest).
    """

    layers: Sequence[str] = ()

    def apply(self, model: nn.Module, example: tuple[Tensor, ...]) -> nn.Module:
        """The tapped model."""
        if not self.layers:
            raise InputError("no layer is named", where="Taps", fix="name one, e.g. layers=('embedding',)")
        wrapped = tapped(model)
        for layer in self.layers:
            submodule(wrapped.model, layer.removesuffix(":input"))
        return wrapped

    def strip(self, model: nn.Module) -> nn.Module:
        """The model inside."""
        return model.model if isinstance(model, Tapped) else model
