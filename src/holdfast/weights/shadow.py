"""The running copy behind every average inside the loop: fp32 or wider, fused, shard by shard, resumable."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from holdfast.core.errors import InputError
from holdfast.weights.sharded import local, place_like, reshard
from holdfast.weights.tree import Entry, averaged, check_alike, count_kinds, entries, unwrap

__all__ = ["Shadow", "check_settings"]

_CHUNK = 1 << 20
"""Elements converted at a time where the model is narrower than the shadow: the scratch stays in the cache."""

_Piece: TypeAlias = tuple[Tensor, Tensor, Tensor | None]
"""A part of the shadow, the same part of the model, and scratch in the shadow's dtype where one is needed."""


class Shadow:
    """A copy of a model's state that moves towards it: ``shadow <- shadow + weight (theta - shadow)``.

    Parameters, float buffers and BatchNorm statistics are averaged, in fp32 where the model is narrower and in the
    model's own dtype otherwise; integers and booleans are copied from the last model seen; tied weights are kept
    once. Under FSDP2 every rank averages its own shard: no communication, no gathered copy.

    Args:
        model: the model, wrapped or not; it should stand on its final device.

    Raises:
        InputError: a model without any state.
    """

    def __init__(self, model: nn.Module) -> None:
        self._follow(model)
        self._plan: tuple[list[Tensor], list[_Piece]] = ([], [])
        self._means = [_wide(tensor) for tensor in self._moving.values]
        self._counters = [tensor.detach().clone() for tensor in self._copied.values]

    def _follow(self, model: nn.Module) -> None:
        self._model = unwrap(model)
        reshard(self._model)
        self._entries = entries(self._model)
        if not self._entries:
            raise InputError("the model has neither parameters nor buffers", where="average", fix="nothing to average")
        single = [entry for entry in self._entries if entry.tied_to is None]
        self._moving = _Live([entry for entry in single if averaged(entry.tensor())])
        self._copied = _Live([entry for entry in single if not averaged(entry.tensor())])

    @torch.no_grad()
    def pull(self, model: nn.Module, weight: float) -> None:
        """Move the shadow towards ``model`` by ``weight``, 1 meaning all the way.

        Raises:
            InputError: another architecture, another device or another sharding than at the start.
        """
        if unwrap(model) is not self._model:
            self._change_model(model)
        reshard(self._model)
        values = self._moving.read(self._means)
        if self._moving.narrow:
            for mean, value, scratch in self._narrow_plan(values):
                mean.lerp_(value.to(mean.dtype) if scratch is None else scratch.copy_(value), weight)
        elif values:
            torch._foreach_lerp_(self._means, values, weight)
        if self._counters:
            torch._foreach_copy_(self._counters, self._copied.read(self._counters))

    def _change_model(self, model: nn.Module) -> None:
        before = [(entry.name, entry.tied_to) for entry in self._entries]
        self._follow(model)
        if [(entry.name, entry.tied_to) for entry in self._entries] != before:
            raise InputError("the model has other entries than at the start", where="average", fix="start a new one")

    def _narrow_plan(self, values: list[Tensor]) -> list[_Piece]:
        """The shadow and the model cut into matching pieces, anew only when tensors were exchanged."""
        if self._plan[0] is not values:
            scratch: dict[torch.dtype, Tensor] = {}
            pairs = zip(self._means, values, strict=True)
            self._plan = values, [piece for mean, value in pairs for piece in _cut(mean, value, scratch)]
        return self._plan[1]

    @torch.no_grad()
    def weights(self, kept: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The state dict of the average in the model's dtypes and sharding; shares memory with nothing.

        Args:
            kept: another state of the form that `state_dict` gives, to be dressed the same way.
        """
        if kept is None:
            kept = {entry.name: tensor for entry, tensor in self._kept()}
        state: dict[str, Tensor] = {}
        for entry in self._entries:
            live = entry.tensor()
            if entry.tied_to:
                state[entry.name] = state[entry.tied_to]
            else:
                state[entry.name] = place_like(kept[entry.name].to(live.dtype, copy=True), live)
        extras = {k: v for k, v in self._model.state_dict().items() if k not in state}
        return {**state, **extras}

    def record(self) -> dict[str, Any]:
        """How many entries of each class there are and what was done to them, for a file's metadata."""
        return {
            "entries": count_kinds(self._entries),
            "averaged": "parameters, float buffers and BatchNorm statistics, in fp32 or wider",
            "copied": "integers and booleans, from the last model",
        }

    def ties(self) -> dict[str, str]:
        """Names that share a tensor, each with the name under which it is kept."""
        return {entry.name: entry.tied_to for entry in self._entries if entry.tied_to}

    def state_dict(self) -> dict[str, Tensor]:
        """The shadow by name, as this rank holds it; a copy."""
        return {entry.name: tensor.clone() for entry, tensor in self._kept()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` gave.

        Raises:
            InputError: entries that differ, in a table.
        """
        kept = {entry.name: tensor for entry, tensor in self._kept()}
        check_alike({"this average": kept, "the saved one": state})
        for name, tensor in kept.items():
            tensor.copy_(state[name])

    def _kept(self) -> list[tuple[Entry, Tensor]]:
        moving = zip(self._moving.entries, self._means, strict=True)
        return [*moving, *zip(self._copied.entries, self._counters, strict=True)]


def check_settings(saved: Mapping[str, Any], settings: Mapping[str, Any], *, where: str) -> None:
    """Refuse to resume an average with other settings than it was saved with.

    Raises:
        InputError: naming both.
    """
    if dict(saved) != dict(settings):
        fix = "resume with the same values"
        raise InputError(f"saved with {dict(saved)}, resumed with {dict(settings)}", where=where, fix=fix)


class _Live:
    """The tensors that stand in a model's entries now, read anew at every step but examined only when exchanged."""

    def __init__(self, found: Sequence[Entry]) -> None:
        self.entries = found
        self._homes = [(entry.owner, entry.key) for entry in found]
        self._tensors: list[Tensor | None] = []
        self._follow([entry.tensor() for entry in found])
        self._tensors = [None] * len(found)  # the first reading examines them

    def _follow(self, tensors: Sequence[Tensor | None]) -> None:
        self._tensors = list(tensors)
        self.values = [local(tensor) for tensor in tensors if tensor is not None]
        self._places = [value.data_ptr() for value in self.values]
        self.narrow = any(_is_narrow(value) for value in self.values)

    def read(self, kept: Sequence[Tensor]) -> list[Tensor]:
        """The values as this rank holds them, each of the shape and device of its tensor in ``kept``."""
        tensors = [owner[key] for owner, key in self._homes]
        # ``module.to()`` keeps a parameter but moves what it holds.
        moved = [value.data_ptr() for value in self.values] != self._places
        if moved or not all(map(operator.is_, tensors, self._tensors)):
            self._follow(tensors)
            for entry, value, mine in zip(self.entries, self.values, kept, strict=True):
                if value.shape != mine.shape or value.device != mine.device:
                    raise InputError(
                        f"{entry.name} is {tuple(value.shape)} on {value.device}, at the start it was "
                        f"{tuple(mine.shape)} on {mine.device}",
                        where="average",
                        fix="start the average after the model has its device and its sharding",
                    )
        return self.values


def _is_narrow(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.itemsize < 4


def _cut(mean: Tensor, value: Tensor, scratch: dict[torch.dtype, Tensor]) -> Iterator[_Piece]:
    if value.dtype == mean.dtype or mean.device.type != "cpu" or not (mean.is_contiguous() and value.is_contiguous()):
        yield mean, value.detach(), None
        return
    wide = scratch.setdefault(mean.dtype, torch.empty(_CHUNK, dtype=mean.dtype))
    pieces = zip(torch.split(mean.view(-1), _CHUNK), torch.split(value.detach().view(-1), _CHUNK), strict=True)
    for target, piece in pieces:
        yield target, piece, wide[: piece.numel()]


def _wide(tensor: Tensor) -> Tensor:
    """A detached copy, at least fp32: a bf16 average stops moving once ``weight * gap`` falls below half a bit."""
    return tensor.detach().to(torch.float32 if _is_narrow(tensor) else tensor.dtype, copy=True)
