"""The loss at perturbed weights with the gradient at the weights themselves, by one of two strategies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils import checkpoint as torch_checkpoint

from holdfast.core.contracts import Step, Term, WeightPerturbation
from holdfast.core.errors import ClashError, NoEffectError
from holdfast.methods.handover import handed_over, internal_scale
from holdfast.train.terms import differentiate, evaluate, losses, total
from holdfast.train.wrapping import is_sharded, unwrap

__all__ = ["Strategy", "choose_strategy", "functional", "in_place"]

Strategy: TypeAlias = Literal["functional", "in_place"]
Values: TypeAlias = Mapping[str, Tensor]
_T = TypeVar("_T")


def choose_strategy(model: nn.Module, forward: Callable[[], object]) -> Strategy:
    """``"in_place"`` where a functional call is silently wrong: under activation checkpointing, else ``"functional"``.

    Checkpointing runs layers again in the backward, with the module's own weights instead of the perturbed ones.

    Args:
        model: the model as it is trained.
        forward: one training forward; it is run once and leaves no trace in buffers and generators.

    Raises:
        ClashError: the weights are sharded (FSDP2).
    """
    if is_sharded(model):
        raise ClashError("the weights are sharded", where="weight perturbation",
                         fix="use DDP, or leave the perturbation out under FSDP2")  # fmt: skip
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)), _keeping_buffers(model), _watching_checkpoints() as seen:
        forward()
    return "in_place" if seen else "functional"


# --- functional -----------------------------------------------------------------------------------------


def functional(model: nn.Module, terms: Sequence[Term], perturbation: WeightPerturbation, step: Step, *,
               own_backward: bool) -> Tensor:  # fmt: skip
    """The loss with other weights put in the place of the model's for the time of the call; see `in_place`."""
    exchange = _Exchange(unwrap(model))
    called = model if isinstance(model, nn.parallel.DistributedDataParallel) else exchange.model
    forward = partial(step.task.forward, called)
    parameters = exchange.parameters
    delta = perturbation.delta(parameters, lambda values: exchange.at(values, evaluate, terms, forward), step)
    _check_names(delta, parameters)
    moved = {name: parameters[name] + value for name, value in delta.items()}
    found = exchange.at(moved, losses, terms, forward)
    return differentiate(found) if own_backward else total(found)


class _Exchange:
    """Tensors in the place of a model's parameters; tied ones change together.

    What `torch.func.functional_call` does, without its checks, which take a third of a small model's step. BatchNorm
    statistics move in the first pass only, which is the one at the weights themselves; later ones move copies.
    """

    def __init__(self, model: nn.Module) -> None:
        parameters: dict[str, Tensor] = {}
        places: list[tuple[dict[str, Any], str, str]] = []
        buffers: list[tuple[dict[str, Any], str]] = []
        names: dict[int, str] = {}
        for path, module in model.named_modules():
            for key, p in module._parameters.items():
                if p is not None and p.requires_grad:
                    name = names.setdefault(id(p), f"{path}.{key}" if path else key)
                    parameters[name] = p
                    places.append((module._parameters, key, name))
            for key, buffer in module._buffers.items():
                if buffer is not None:
                    buffers.append((module._buffers, key))
        self.model, self.parameters, self._places, self._buffers = model, parameters, places, buffers
        self._first = True

    def at(self, values: Values, compute: Callable[..., _T], *arguments: Any) -> _T:
        """``compute(*arguments)`` with ``values`` in the place of the parameters of their names."""
        places = [(held, key, name) for held, key, name in self._places if name in values]
        # As they are now: a forward may have put others there.
        copied = [] if self._first else [(held, key, held[key]) for held, key in self._buffers]
        copies = {id(buffer): buffer for _, _, buffer in copied}
        try:
            for held, key, name in places:
                held[key] = values[name]
            copies = {which: None if buffer is None else buffer.clone() for which, buffer in copies.items()}
            for held, key, buffer in copied:
                held[key] = copies[id(buffer)]
            return compute(*arguments)
        finally:
            self._first = False
            for held, key, name in places:
                held[key] = self.parameters[name]
            for held, key, buffer in copied:
                held[key] = buffer


# --- in place -------------------------------------------------------------------------------------------


def in_place(model: nn.Module, terms: Sequence[Term], perturbation: WeightPerturbation, step: Step, *,
             own_backward: bool) -> Tensor:  # fmt: skip
    """The loss with the model's weights moved, differentiated before they are moved back.

    With ``own_backward`` it is differentiated for good and detached; otherwise its gradients are handed over to the
    caller's ``backward``.

    Raises:
        ClashError: gradients cannot be handed over under DDP.
    """
    if isinstance(model, nn.parallel.DistributedDataParallel) and not own_backward:
        raise ClashError("checkpointed layers under DDP leave only one way to perturb weights",
                         where="weight perturbation", fix="call objective.backward(model, batch)")  # fmt: skip
    plain = unwrap(model)
    parameters = {name: p for name, p in plain.named_parameters() if p.requires_grad}
    first = True

    def loss_at(values: Values) -> Tensor:
        nonlocal first
        with _at(parameters, values), nullcontext() if first else _keeping_buffers(plain):
            value = evaluate(terms, step.forward)
            gradients = _gradients(value, list(parameters.values()))
        first = False
        points = [values[name] for name in parameters]
        return handed_over(value.detach(), points, gradients)

    delta = perturbation.delta(parameters, loss_at, step)
    _check_names(delta, parameters)
    moved = {name: p.detach() + delta[name] for name, p in parameters.items() if name in delta}
    with _at(parameters, moved), nullcontext() if first else _keeping_buffers(plain):
        found = losses(terms, step.forward)
        if own_backward:
            return differentiate(found)
        value = total(found)
        gradients = _gradients(value, list(parameters.values()))
    return handed_over(value.detach(), list(parameters.values()), gradients)


def _gradients(loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Gradients by ``backward``, which checkpointing needs, without touching those that were there."""
    before, scale = [p.grad for p in parameters], internal_scale(loss)
    for p in parameters:
        p.grad = None
    try:
        torch.autograd.backward(loss * scale)
        return [torch.zeros_like(p) if p.grad is None else p.grad / scale for p in parameters]
    finally:
        for p, grad in zip(parameters, before, strict=True):
            p.grad = grad


@contextmanager
def _at(parameters: Values, values: Values) -> Iterator[None]:
    """The parameters holding other values; their own storage comes back, whatever happens."""
    own = {name: parameters[name].data for name in values}
    for name, value in values.items():
        parameters[name].data = value.detach()
    torch.clear_autocast_cache()  # it knows a parameter by its place, not by its value
    try:
        yield
    finally:
        for name, value in own.items():
            parameters[name].data = value
        torch.clear_autocast_cache()


@contextmanager
def _keeping_buffers(model: nn.Module) -> Iterator[None]:
    """The buffers as they were when the block ends: what happens in it happens to copies."""
    originals = [
        (m, name, buffer) for m in model.modules() for name, buffer in m._buffers.items() if buffer is not None
    ]
    for module, name, buffer in originals:
        module._buffers[name] = buffer.clone()
    try:
        yield
    finally:
        for module, name, buffer in originals:
            module._buffers[name] = buffer


def _check_names(delta: Values, parameters: Values) -> None:
    if unknown := set(delta) - set(parameters):
        raise NoEffectError(f"no trained parameter {sorted(unknown)[0]!r}", where="weight perturbation")


# --- checkpointing --------------------------------------------------------------------------------------


@contextmanager
def _watching_checkpoints() -> Iterator[list[str]]:
    """The kinds of checkpointing used in the block, one entry for each use; torch tells nobody else."""
    seen: list[str] = []
    begin: Callable[..., None] = torch_checkpoint._checkpoint_hook.__init__
    apply: Callable[..., Any] = torch_checkpoint.CheckpointFunction.apply

    def begun(self: Any, *args: Any, **options: Any) -> None:
        seen.append("non-reentrant")
        begin(self, *args, **options)

    def applied(*args: Any) -> Any:
        seen.append("reentrant")
        return apply(*args)

    with (
        patch.object(torch_checkpoint._checkpoint_hook, "__init__", begun),
        patch.object(torch_checkpoint.CheckpointFunction, "apply", applied),
    ):
        yield seen
