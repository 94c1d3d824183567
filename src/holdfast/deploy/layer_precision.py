"""One layer at another precision, the rest in fp32: which layers a mixed-precision plan has to spare."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from holdfast.core.errors import InputError
from holdfast.deploy.emulate import PRECISIONS, Rounding, round_to
from holdfast.deploy.emulate_int8 import fake_quantise, fake_quantise_weight
from holdfast.surgery.criticality import Change
from holdfast.surgery.layers import Weighted
from holdfast.surgery.owned import Layer, swapped
from holdfast.surgery.tapped import evaluating
from holdfast.surgery.visited import Visit, visited

__all__ = ["cast", "input_ranges", "quantise"]


def cast(model: nn.Module, layer: Layer, precision: str) -> Change:
    """The change that computes one layer in ``fp16``, ``bf16`` or ``tf32``: inputs, weights and results are rounded.

    Sums stay in fp32, as in tensor cores; see `holdfast.deploy.emulate.Rounding`.

    Args:
        model: the model, in fp32.
        layer: from `owned_layers`.
        precision: ``fp16``, ``bf16`` or ``tf32``.

    Raises:
        InputError: another precision, or a layer made of the model's own parameters, which has no inputs.
    """
    if precision not in PRECISIONS:
        raise InputError(f"cannot cast to {precision!r}", where="cast", fix=f"one of {', '.join(PRECISIONS)}")
    modules = [model.get_submodule(name) for name in layer.modules if name]
    if not modules:
        raise InputError(f"{layer.name} is no module with inputs", where="cast", fix="leave it out")

    @contextmanager
    def entered() -> Iterator[None]:
        own = dict(model.named_parameters(remove_duplicate=False))
        stored = precision != "tf32"  # tf32 rounds operands only
        rounded = {name: round_to(own[name].detach(), precision) for name in layer.parameters if stored}
        with swapped(model, rounded), visited(modules, partial(_rounding, precision)):
            yield

    return Change(kind=precision, layer=layer.name, modules=frozenset(layer.modules), entered=entered)


def quantise(model: nn.Module, layer: Layer, ranges: Mapping[str, tuple[float, float]]) -> Change:
    """The change that computes one convolution or linear layer in int8.

    Weights lie on a symmetric grid with a scale for each output channel, the input on an unsigned grid over its range;
    sums are exact. The result is not quantised: the next layer's input would be, and that layer is in fp32.

    Args:
        model: the model, in fp32.
        layer: from `owned_layers`.
        ranges: smallest and largest input by module name, from `input_ranges`.

    Raises:
        InputError: the layer holds no convolution or linear layer of known range.
    """
    names = [name for name in layer.modules if name in ranges]
    if not names:
        raise InputError(f"{layer.name} holds no convolution or linear layer that was observed", where="quantise",
                         fix="leave it out, or observe it with input_ranges")  # fmt: skip
    modules = {name: model.get_submodule(name) for name in names}

    @contextmanager
    def entered() -> Iterator[None]:
        weights = {f"{name}.weight": _grid_weight(module) for name, module in modules.items()}
        with swapped(model, weights):
            hooks = [
                module.register_forward_pre_hook(partial(_grid_input, ranges[name])) for name, module in modules.items()
            ]
            try:
                yield
            finally:
                for hook in hooks:
                    hook.remove()

    return Change(kind="int8", layer=layer.name, modules=frozenset(layer.modules), entered=entered)


def input_ranges(
    model: nn.Module, run: Callable[[Any], object], batches: Iterable[Any]
) -> dict[str, tuple[float, float]]:
    """Smallest and largest input of every convolution and linear layer that is called, by module name.

    Args:
        model: the model.
        run: a forward through it on one batch.
        batches: calibration batches; 100 to 500 samples do.
    """
    found: dict[str, tuple[float, float]] = {}

    def watch(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        low, high = found.get(name, (math.inf, -math.inf))
        found[name] = (min(low, float(inputs[0].min())), max(high, float(inputs[0].max())))

    hooks = [
        module.register_forward_pre_hook(partial(watch, name))
        for name, module in model.named_modules() if name and isinstance(module, Weighted)
    ]  # fmt: skip
    try:
        with evaluating(model), torch.no_grad():
            for batch in batches:
                run(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _grid_weight(module: nn.Module) -> Tensor:
    assert isinstance(module, Weighted)
    transposed = isinstance(module, nn.modules.conv._ConvTransposeNd)
    return fake_quantise_weight(module.weight.detach(), 1 if transposed else 0)


def _grid_input(bounds: tuple[float, float], module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (fake_quantise(inputs[0], *bounds), *inputs[1:])


def _rounding(precision: str, module: nn.Module, forward: Visit, *inputs: Any, **call: Any) -> Any:
    if precision != "tf32":
        inputs = tree_map(lambda value: round_to(value, precision) if _single(value) else value, inputs)
    with Rounding(precision):
        return forward(*inputs, **call)


def _single(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype is torch.float32
