"""Layers as a reset sees them: modules with weights of their own, joined where they share some."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from holdfast.core.errors import InputError, nearest

__all__ = ["Layer", "owned_layers", "swapped"]

ROOT = "(model)"
"""Name of the layer that holds parameters of the model itself, such as a class token."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What is reset, rounded and measured as one; weight and bias move together.

    Args:
        name: dotted name of its first module, ``(model)`` for the model itself.
        modules: names of its modules; several where they share a parameter.
        parameters: names of its parameters, a shared one once.
    """

    name: str
    modules: tuple[str, ...]
    parameters: tuple[str, ...]


def owned_layers(model: nn.Module) -> dict[str, Layer]:
    """The layers of a model by name, in the order of registration; every parameter belongs to exactly one.

    A layer is a module that owns parameters. Modules that share a parameter (tied embeddings, one module under two
    names) are one layer, so nothing is reset twice.

    Args:
        model: any model.

    Raises:
        InputError: the model has no parameters.
    """
    groups: dict[int, list[tuple[str, nn.Module]]] = {}
    home: dict[int, int] = {}
    for name, module in model.named_modules():
        own = [id(parameter) for parameter in module.parameters(recurse=False)]
        if not own:
            continue
        first, *others = sorted({home[key] for key in own if key in home}) or [len(home)]
        for other in others:
            groups[first] += groups.pop(other)
            home |= {key: first for key, group in home.items() if group == other}
        groups.setdefault(first, []).append((name, module))
        home |= dict.fromkeys(own, first)
    if not groups:
        raise InputError("the model has no parameters", where="layers", fix="give a model with weights")
    layers = [_layer(members) for members in groups.values()]
    return {layer.name: layer for layer in layers}


def _layer(members: list[tuple[str, nn.Module]]) -> Layer:
    parameters: dict[int, str] = {}
    for name, module in members:
        for key, parameter in module.named_parameters(recurse=False):
            parameters.setdefault(id(parameter), f"{name}.{key}" if name else key)
    names = tuple(name for name, _ in members)
    return Layer(name=names[0] or ROOT, modules=names, parameters=tuple(parameters.values()))


@contextmanager
def swapped(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """The model with other values for some parameters and buffers; its own bits come back when the block ends.

    Nothing is copied: the tensors' storage changes hands. A shared parameter changes wherever it is used.

    Args:
        model: any model.
        tensors: by state-dict name, of the same shape and dtype.

    Raises:
        InputError: a name that is not there (naming the nearest), or another shape or dtype.
    """
    slots = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    for name, value in tensors.items():
        if name not in slots:
            raise InputError(f"the model has no tensor {name!r}", where="swap", fix=nearest(name, slots))
        if slots[name].shape != value.shape or slots[name].dtype != value.dtype:
            own_kind, kind = (f"{t.dtype} {tuple(t.shape)}" for t in (slots[name], value))
            raise InputError(f"{name!r} is {own_kind}, not {kind}", where="swap",
                             fix="give a state of the same architecture")  # fmt: skip
    own = {name: slots[name].data for name in tensors}
    try:
        for name, value in tensors.items():
            slots[name].data = value.detach().to(own[name].device)
        yield
    finally:
        for name, value in own.items():
            slots[name].data = value
