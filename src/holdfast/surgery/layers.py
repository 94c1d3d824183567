"""Which layers of a model hold weights, in the order in which a forward calls them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn

from holdfast.core.errors import InputError, NoEffectError, nearest
from holdfast.surgery.tapped import evaluating

__all__ = ["Weighted", "weighted_layers"]

Weighted: TypeAlias = nn.Linear | nn.modules.conv._ConvNd


def weighted_layers(model: nn.Module, example: tuple[Tensor, ...], *, skip: Sequence[str] = (),
                    who: str) -> dict[str, Weighted]:  # fmt: skip
    """Convolutions and linear layers by name, in the order of their first call; a shared weight counts once.

    Args:
        model: any model.
        example: what it is called with.
        skip: names to leave out.
        who: asks, for errors.

    Raises:
        NoEffectError: there is none.
        InputError: a name in ``skip`` that is no such layer.
    """
    found = {name: module for name, module in model.named_modules() if isinstance(module, Weighted)}
    if unknown := [name for name in skip if name not in found]:
        raise InputError(f"{unknown[0]!r} is no convolution or linear layer", where=who, fix=nearest(unknown[0], found))
    order: list[str] = []
    handles = [m.register_forward_pre_hook(partial(_note, order, name)) for name, m in found.items()]
    try:
        with evaluating(model), torch.no_grad():
            model(*example)
    finally:
        for handle in handles:
            handle.remove()
    seen: set[int] = set()
    layers = {}
    for name in order:
        weight = found[name].weight
        if name not in skip and id(weight) not in seen:
            layers[name] = found[name]
        seen.add(id(weight))
    if not layers:
        raise NoEffectError("the model calls no convolution or linear layer to act on", where=who)
    return layers


def _note(order: list[str], name: str, module: nn.Module, inputs: object) -> None:
    if name not in order:
        order.append(name)
