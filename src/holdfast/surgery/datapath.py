"""Datapaths: which channels decide, how far two runs of a network are apart, and the layer where that begins."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from holdfast.core.errors import InputError, NoEffectError
from holdfast.surgery.owned import owned_layers

__all__ = ["Datapath", "LayerPath", "Trace", "compare", "critical_channels", "jaccard", "trace"]

CEILING_DB = 100.0
"""Agreement beyond this is rounding of fp32 and counts as none of a layer's doing."""


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What went through the layers of a model in one forward, in the order of their first call.

    Args:
        inputs: by layer, its first input, floating point.
        calls: by layer, what it was called with: arguments and keywords.
        outputs: by layer, its output.
        importance: by layer, float64 (C,), mean over the samples of ``|sum_p dL/dg_c g_c|`` at ``g = 1``, where ``g_c``
            is a gate on channel ``c`` and the sum runs over its positions; empty without a loss.
    """

    inputs: Mapping[str, Tensor]
    calls: Mapping[str, tuple[tuple[Any, ...], Mapping[str, Any]]]
    outputs: Mapping[str, Tensor]
    importance: Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class LayerPath:
    """One layer of two runs.

    Args:
        layer: its name.
        input_db: agreement of its inputs, ``20 log10(||a|| / ||a' - a||)``, at most 100.
        output_db: agreement of its outputs.
        gain: relative difference of the outputs over that of the inputs; infinite where the inputs agree in every bit.
        added_db: ``input_db - output_db``: by how much the layer enlarges the difference, or adds to it.
        own_db: agreement of its output in the other run with what the reference layer makes of the same input: below
            100 only where the other layer computes something else.
        overlap: Jaccard index of the critical channels of both runs; NaN without importances.
        critical: critical channels of the first run.
        channels: channels there are.
    """

    layer: str
    input_db: float
    output_db: float
    gain: float
    added_db: float
    own_db: float
    overlap: float
    critical: int
    channels: int


@dataclass(frozen=True, kw_only=True)
class Datapath:
    """The layers of two runs in the order of their first call."""

    layers: tuple[LayerPath, ...]

    def divergence_layer(self, *, least_db: float = 3.0) -> str | None:
        """Where the runs part: the layer that itself departs most from the reference, the first of equals.

        Where no layer computes anything else, so that only the inputs of the network differ (another preprocessing),
        it is the layer that enlarges the difference most, and None where none adds ``least_db``.
        """
        worst = min(self.layers, key=lambda layer: layer.own_db)
        if worst.own_db < CEILING_DB - 1:
            return worst.layer
        most = max(self.layers, key=lambda layer: layer.added_db)
        return most.layer if most.added_db >= least_db else None

    def first_below(self, overlap: float) -> str | None:
        """The first layer whose critical channels overlap less than this, or None."""
        return next((layer.layer for layer in self.layers if layer.overlap < overlap), None)


def trace(model: nn.Module, call: Callable[[], Tensor]) -> Trace:
    """Run ``call()`` and keep what goes through every layer that owns weights.

    Args:
        model: the model, in eval mode.
        call: a forward through it that returns the losses float (B,), or anything under `torch.no_grad`; then there
            are no importances. A layer that is called several times counts at its first call.

    Raises:
        NoEffectError: no layer with weights was called.
    """
    calls: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}
    outputs: dict[str, Tensor] = {}
    with _hooked(model, calls, outputs):
        loss = call()
    if not outputs:
        raise NoEffectError("the model calls no layer with weights", where="datapath")
    importance = {}
    if isinstance(loss, Tensor) and loss.requires_grad:
        asked = {name: value for name, value in outputs.items() if value.requires_grad}
        gradients = torch.autograd.grad(loss.sum(), list(asked.values()), allow_unused=True)
        for (name, value), gradient in zip(asked.items(), gradients, strict=True):
            if gradient is not None:
                importance[name] = _importance(model, name, value.detach(), gradient)
    return Trace(
        inputs={name: given[0] for name, (given, _) in calls.items() if given and _floats(given[0])},
        calls=calls,
        outputs={name: value.detach() for name, value in outputs.items()},
        importance=importance,
    )


@contextmanager
def _hooked(model: nn.Module, calls: dict[str, tuple[tuple[Any, ...], dict[str, Any]]],
            outputs: dict[str, Tensor]) -> Iterator[None]:  # fmt: skip
    def enter(name: str, module: nn.Module, given: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if name not in outputs:
            calls[name] = (tree_map(_copy, given), tree_map(_copy, keywords))

    def leave(name: str, module: nn.Module, given: tuple[Any, ...], output: Any) -> Any:
        value = output[0] if isinstance(output, tuple) else output
        if name in outputs or not _floats(value):
            return output
        outputs[name] = value
        # What follows may write into the output: it gets a copy, which is part of the graph.
        return (value.clone(), *output[1:]) if isinstance(output, tuple) else value.clone()

    handles = []
    try:
        for layer in owned_layers(model).values():
            for name in layer.modules:
                if name:
                    module = model.get_submodule(name)
                    handles.append(module.register_forward_pre_hook(partial(enter, name), with_kwargs=True))
                    handles.append(module.register_forward_hook(partial(leave, name)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _floats(value: Any) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.is_floating_point()


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _importance(model: nn.Module, name: str, value: Tensor, gradient: Tensor) -> Tensor:
    product = (value * gradient).double()
    channel = _channel_dimension(model.get_submodule(name), value)
    others = [d for d in range(1, product.ndim) if d != channel]
    return (product.sum(dim=others) if others else product).abs().mean(dim=0)


def _channel_dimension(module: nn.Module, value: Tensor) -> int:
    """Linear layers and LayerNorm have their channels last, convolutions and the other norms second."""
    last = isinstance(module, nn.Linear | nn.LayerNorm | nn.Embedding | nn.MultiheadAttention)
    return value.ndim - 1 if last else 1


def critical_channels(importance: Tensor, mass: float = 0.95) -> frozenset[int]:
    """The smallest set of channels that carries a share of the total importance.

    Args:
        importance: float (C,), not negative.
        mass: share of the total. Default 0.95.

    Raises:
        InputError: a share outside 0..1.
    """
    if not 0 < mass <= 1:
        raise InputError(f"mass {mass} is not a share", where="datapath", fix="use 0.95")
    order = importance.argsort(descending=True, stable=True)
    running = importance[order].cumsum(0)
    if not float(running[-1]) > 0:
        return frozenset()
    count = int((running < mass * running[-1] * (1 - 1e-12)).sum()) + 1
    return frozenset(order[:count].tolist())


def jaccard(a: frozenset[int], b: frozenset[int]) -> float:
    """``|A n B| / |A u B|``; 1 for two empty sets."""
    return len(a & b) / len(a | b) if a | b else 1.0


def compare(model: nn.Module, reference: Trace, other: Trace, *, mass: float = 0.95) -> Datapath:
    """Two runs on the same samples, layer by layer (after Liu et al. 2018, with first-order importances).

    Args:
        model: the model of the reference run, in eval mode.
        reference: the clean run, or the back-end to trust.
        other: the perturbed run, or the other back-end.
        mass: see `critical_channels`.

    Raises:
        InputError: the runs share no layer of equal shape.
    """
    shared = [
        name for name in reference.outputs
        if name in other.outputs and reference.outputs[name].shape == other.outputs[name].shape
    ]  # fmt: skip
    if not shared:
        raise InputError("the two runs share no layer", where="datapath", fix="compare runs of one architecture")
    return Datapath(layers=tuple(_layer_path(model, name, reference, other, mass) for name in shared))


def _layer_path(model: nn.Module, name: str, reference: Trace, other: Trace, mass: float) -> LayerPath:
    before = _relative(reference.inputs, other.inputs, name)
    after = _relative(reference.outputs, other.outputs, name)
    overlap, critical, channels = math.nan, 0, 0
    if name in reference.importance and name in other.importance:
        sets = [critical_channels(run.importance[name], mass) for run in (reference, other)]
        overlap, critical, channels = jaccard(*sets), len(sets[0]), len(reference.importance[name])
    return LayerPath(
        layer=name, input_db=_decibel(before), output_db=_decibel(after),
        gain=after / before if before else math.inf if after else 1.0,
        added_db=_decibel(before) - _decibel(after), own_db=_decibel(_own(model, name, other)),
        overlap=overlap, critical=critical, channels=channels,
    )  # fmt: skip


def _own(model: nn.Module, name: str, other: Trace) -> float:
    """Relative difference between what a layer gave and what the reference layer makes of the same input."""
    given, keywords = other.calls[name]
    with torch.no_grad():
        expected = model.get_submodule(name)(*tree_map(_copy, given), **tree_map(_copy, keywords))
    expected = expected[0] if isinstance(expected, tuple) else expected
    return _relative({name: expected}, other.outputs, name)


def _relative(reference: Mapping[str, Tensor], other: Mapping[str, Tensor], name: str) -> float:
    """``||a' - a|| / ||a||``; 0 for a layer without floating inputs, such as an embedding."""
    if name not in reference or name not in other:
        return 0.0
    a, b = reference[name].double(), other[name].double()
    difference, size = float((b - a).norm()), float(a.norm())
    return difference / size if size else math.inf if difference else 0.0


def _decibel(relative: float) -> float:
    if not relative < math.inf:  # NaN: one of the runs broke
        return -CEILING_DB
    return CEILING_DB if relative == 0 else max(-CEILING_DB, min(CEILING_DB, -20 * math.log10(relative)))
