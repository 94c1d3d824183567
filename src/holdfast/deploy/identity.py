"""Hashes that name artefacts by content: what a module computes with, its weights, the versions that translated it."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["architecture_key", "digest", "named_state", "tensors_key", "versions", "weights_key"]

_BOOKKEEPING = frozenset(vars(nn.Module()))


def digest(*parts: object) -> str:
    """Hexadecimal SHA-256 (16 digits) of JSON-ready parts; the order of dictionary keys does not matter."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=repr).encode()).hexdigest()[:16]


def tensors_key(tensors: Mapping[str, Tensor] | Iterable[Tensor]) -> str:
    """Hash of names, dtypes, shapes and bits of tensors."""
    named = tensors.items() if isinstance(tensors, Mapping) else ((str(i), t) for i, t in enumerate(tensors))
    seen = hashlib.sha256()
    for name, tensor in named:
        seen.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        seen.update(_bytes(tensor))
    return seen.hexdigest()[:16]


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return np.ascontiguousarray(flat.view(torch.uint8).numpy()).tobytes()


def named_state(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by name, also those a state dict leaves out; shared ones under each name."""
    state: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    state.update(model.named_buffers(remove_duplicate=False))
    return state


def weights_key(model: nn.Module) -> str:
    """Hash of everything in `named_state`."""
    return tensors_key(named_state(model))


def architecture_key(model: nn.Module, example: tuple[Tensor, ...]) -> str:
    """Hash of what a module computes apart from its weights.

    Covers, for each submodule, its class, the source of that class, plain attributes (numbers, strings, tuples,
    tensors) and the shapes and sharing of its weights; and the shapes and dtypes of ``example``. Code reached by
    other ways (a global function edited meanwhile) is not seen: check a cached artefact against the eager model.
    """
    modules = [
        [name, _class_key(type(module)), _attributes(module)]
        for name, module in model.named_modules(remove_duplicate=False)
    ]
    first_with: dict[int, str] = {}
    state = [
        [name, str(tensor.dtype), list(tensor.shape), first_with.setdefault(id(tensor), name)]
        for name, tensor in named_state(model).items()
    ]
    inputs = [[str(tensor.dtype), list(tensor.shape[1:])] for tensor in example]
    return digest(modules, state, inputs)


def _class_key(kind: type) -> str:
    name = f"{kind.__module__}.{kind.__qualname__}"
    if kind.__module__.startswith("torch."):
        return name  # torch's version stands in the key of the artefact
    try:
        return digest(name, *(inspect.getsource(base) for base in kind.__mro__ if _is_users(base)))
    except (OSError, TypeError):
        return name


def _is_users(base: type) -> bool:
    return base is not object and not base.__module__.startswith("torch.")


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {name: _plain(value) for name, value in vars(module).items() if name not in _BOOKKEEPING}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        return tensors_key([value])
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list | set | frozenset):
        return [_plain(entry) for entry in value]
    # The default repr of an object holds its address; its name is what stays the same.
    return getattr(value, "__qualname__", type(value).__qualname__)


def versions(*packages: str) -> dict[str, str]:
    """Installed versions; ``"absent"`` where a package is not there."""
    return {name: _version(name) for name in packages}


@cache
def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
