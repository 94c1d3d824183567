"""Auxiliary head: a small classifier on a tapped layer, trained beside the model and cut off before deployment."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from holdfast.core.errors import InputError
from holdfast.surgery.tapped import Tapped, evaluating, last_layer, read_tap, tapped

__all__ = ["AuxiliaryHead"]


@dataclass(frozen=True, kw_only=True)
class AuxiliaryHead:
    """Feeds the mean over positions of a tap to a linear layer, read with ``heads=(name,)`` in the model's call.

    The head is part of the prepared module's forward, so that data-parallel training reduces its gradients.

    Args:
        name: of the head.
        outputs: size of its output.
        tap: layer whose output it reads, or with ``:input`` its input; empty (default): the input of the last layer
            with weights.
        channel_dim: dimension of the tap that holds channels; the mean is taken over the others. Default 1; -1 for
            sequences (B, L, C).
        seed: of its initialisation.

    Raises:
        InputError: a tap that is not there or not reached, a name that is taken.
    """

    name: str = "head"
    outputs: int = 4
    tap: str = ""
    channel_dim: int = 1
    seed: int = 0

    def apply(self, model: nn.Module, example: tuple[Tensor, ...]) -> nn.Module:
        """The tapped model with this head."""
        wrapped = tapped(model)
        if self.name in wrapped.heads:
            raise InputError(f"there is a head {self.name!r} already", where="AuxiliaryHead", fix="rename one of them")
        inner = wrapped.model
        with evaluating(inner):
            tap = self.tap or f"{last_layer(partial(inner, *example), inner)}:input"
            value = read_tap(partial(inner, *example), inner, tap)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            head = _LinearOfMean(value.shape[self.channel_dim], self.outputs, self.channel_dim)
        wrapped.heads[self.name] = head.to(value.device)
        wrapped.head_taps[self.name] = tap
        return wrapped

    def strip(self, model: nn.Module) -> nn.Module:
        """The model inside, without heads and taps."""
        return model.model if isinstance(model, Tapped) else model


class _LinearOfMean(nn.Module):
    """A linear layer on the mean over positions."""

    def __init__(self, channels: int, outputs: int, channel_dim: int) -> None:
        super().__init__()
        self.linear, self.channel_dim = nn.Linear(channels, outputs), channel_dim

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> (B, outputs), or with another channel dimension likewise."""
        mean = x.movedim(self.channel_dim, -1).flatten(1, -2).mean(1) if x.ndim > 2 else x
        scores: Tensor = self.linear(mean)
        return scores
