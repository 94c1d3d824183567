"""int8 arithmetic emulated in fp32: operands of convolutions and matrix products on a grid of 255 steps."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.core.errors import BackendError
from holdfast.deploy.emulate import DispatchMode, factors

__all__ = ["Quantising", "Ranges", "fake_quantise", "fake_quantise_weight", "observe"]


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """Smallest and largest value of every activation that is multiplied, by number of the operation and operand."""

    low: dict[tuple[int, int], float]
    high: dict[tuple[int, int], float]
    operations: int


def fake_quantise(x: Tensor, low: float, high: float) -> Tensor:
    r"""An activation on the unsigned grid that covers ``[low, high]`` and holds zero exactly.

    .. math:: s (\mathrm{clip}(\mathrm{round}(x / s) + z, 0, 255) - z), \quad s = (high - low) / 255

    Args:
        x: float32, any shape.
        low: at most 0 after widening; values below saturate.
        high: at least 0 after widening; values above saturate.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255
    if scale < torch.finfo(torch.float32).tiny:  # nothing but zero was seen
        scale = 1.0
    return torch.fake_quantize_per_tensor_affine(x, scale, round(-low / scale), 0, 255)


def fake_quantise_weight(weight: Tensor, channel: int | None) -> Tensor:
    """A weight on the signed grid of -127..127, with a scale for each index of dimension ``channel`` or one for all."""
    if channel is None:
        return torch.fake_quantize_per_tensor_affine(weight, float(weight.abs().max()) / 127 or 1.0, 0, -127, 127)
    others = [dim for dim in range(weight.ndim) if dim != channel]
    scale = weight.abs().amax(dim=others).div(127).clamp_min(torch.finfo(torch.float32).tiny)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, channel, -127, 127)


def observe(model: nn.Module, batches: Iterable[tuple[Tensor, ...]]) -> Ranges:
    """Ranges of a model's activations over calibration batches (100 to 500 samples do).

    Raises:
        BackendError: no batch, or the model multiplies another number of times from batch to batch.
    """
    watch = _Watching(model)
    counts: set[int] = set()
    for batch in batches:
        watch.restart()
        with torch.no_grad(), watch:
            model(*batch)
        counts.add(watch.operation)
    if len(counts) != 1:
        reason = "control flow depends on values" if counts else "int8 needs calibration inputs"
        raise BackendError(reason, where="emulated", fix="give a `calibration` split of a static model")
    return Ranges(low=watch.low, high=watch.high, operations=counts.pop())


class _Counting(DispatchMode):  # type: ignore[no-untyped-call]  # torch's own __init_subclass__
    """Numbers the matrix operations of a forward and tells weights from activations."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.operation = 0
        # Views of a weight, such as its transpose, share its storage.
        self.weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def restart(self) -> None:
        """Before the next forward."""
        self.operation = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Let `operand` replace what is multiplied."""
        chosen = factors(func)
        if chosen:
            args = tuple(self.operand(arg, i, func, args) if i in chosen else arg for i, arg in enumerate(args))
            self.operation += 1
        return func(*args, **(kwargs or {}))

    def is_weight(self, x: Tensor) -> bool:
        """Whether a tensor is a parameter of the model or a view of one."""
        return x.untyped_storage().data_ptr() in self.weights

    def operand(self, x: Tensor, position: int, func: Any, args: tuple[Any, ...]) -> Tensor:
        """What takes the place of ``x``, argument ``position`` of ``func(*args)``."""
        raise NotImplementedError


class _Watching(_Counting):  # type: ignore[no-untyped-call]  # torch's own __init_subclass__
    """Widens the range of every activation it sees."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.low: dict[tuple[int, int], float] = {}
        self.high: dict[tuple[int, int], float] = {}

    def operand(self, x: Tensor, position: int, func: Any, args: tuple[Any, ...]) -> Tensor:
        """The operand itself."""
        if not self.is_weight(x):
            key = (self.operation, position)
            self.low[key] = min(self.low.get(key, math.inf), float(x.min()))
            self.high[key] = max(self.high.get(key, -math.inf), float(x.max()))
        return x


class Quantising(_Counting):  # type: ignore[no-untyped-call]  # torch's own __init_subclass__
    """Inside this context the operands of convolutions and matrix products lie on int8 grids; sums are exact in fp32.

    Activations: one scale a tensor, ranges from `observe`. Weights: symmetric, a scale for each output channel or one
    for all. Softmax, norms and additions stay in fp32, as in an engine with explicit quantisation. Call `restart`
    before every forward.
    """

    def __init__(self, model: nn.Module, ranges: Ranges, *, per_channel: bool = True) -> None:
        super().__init__(model)
        self.ranges, self.per_channel = ranges, per_channel
        self._rounded: dict[tuple[int, int], Tensor] = {}

    def operand(self, x: Tensor, position: int, func: Any, args: tuple[Any, ...]) -> Tensor:
        """What the int8 kernel would read."""
        key = (self.operation, position)
        if not self.is_weight(x):
            if key not in self.ranges.low:
                raise BackendError("control flow differs from calibration", where="emulated")
            return fake_quantise(x, self.ranges.low[key], self.ranges.high[key])
        if key not in self._rounded:
            channel = _output_channel(x, position, func, args) if self.per_channel else None
            self._rounded[key] = fake_quantise_weight(x, channel)
        return self._rounded[key]


def _output_channel(weight: Tensor, position: int, func: Any, args: tuple[Any, ...]) -> int:
    """The dimension of a weight that runs over output channels."""
    if func is torch.ops.aten.convolution.default:
        transposed = args[6]
        return 1 if transposed else 0
    return weight.ndim - (
        2 if position == factors(func)[0] else 1
    )  # rows of a left-hand matrix, columns of a right one
