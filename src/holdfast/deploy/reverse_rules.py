"""Derivatives to the input, said in operations that ONNX has and that ONNX Runtime is fast at."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions
from torch.nn.functional import pad

__all__ = ["reverse_rules"]

Ints: TypeAlias = Sequence[int]
aten = torch.ops.aten
FEWEST = 8
"""Channels from which `_by_phases` is the faster way: those of a photograph fill no vector."""


def reverse_rules() -> dict[Any, Callable[..., Any]]:
    """Operator -> how to say it, for `torch.fx.experimental.proxy_tensor.make_fx`; only derivatives are touched."""
    known: dict[Any, Callable[..., Any]] = dict(core_aten_decompositions())
    return {
        **{operator: rule for operator, rule in known.items() if "backward" in str(operator)},
        aten.convolution_backward.default: _convolution,
        aten.threshold_backward.default: _threshold,
        aten.max_pool2d_with_indices_backward.default: _max_pool,
        aten.avg_pool2d_backward.default: _average_pool,
    }


def _threshold(gradient: Tensor, result: Tensor, threshold: float) -> Tensor:
    """Of ``relu``, seen from its result. The mask is made of numbers: ONNX Runtime's Where is several times slower."""
    return gradient * (result > threshold).to(gradient.dtype)


def _max_pool(gradient: Tensor, x: Tensor, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, ceil: bool,
              indices: Tensor) -> Tensor:  # fmt: skip
    """Each element goes back to where it came from."""
    nothing = torch.zeros_like(x).flatten(2)
    return nothing.scatter_add(2, indices.flatten(2), gradient.flatten(2)).view_as(x)


def _average_pool(gradient: Tensor, x: Tensor, kernel: Ints, stride: Ints, padding: Ints, ceil: bool,
                  count_include_pad: bool, divisor: int | None) -> Tensor:  # fmt: skip
    """Every element gets its share, which is the same wherever windows do not hang over the edge."""
    if ceil or (any(padding) and not count_include_pad):
        # Refused, not unfinished: whoever translates says so, and the eager model does the work.
        raise NotImplementedError("average pooling over windows of several sizes")
    ones = torch.ones_like(x[:1, :, :1, :1]).transpose(0, 1).expand(-1, -1, *kernel) / (divisor or math.prod(kernel))
    return _convolution(gradient, x, ones, None, stride or kernel, padding, [1, 1], False, [0, 0], x.shape[1], [])[0]


def _convolution(
    gradient: Tensor, x: Tensor, weight: Tensor, bias: Any, stride: Ints, padding: Ints, dilation: Ints,
    transposed: bool, output_padding: Ints, groups: int, mask: Sequence[bool],
) -> tuple[Tensor, None, None]:  # fmt: skip
    """To the input alone: an attack leaves weights as they are."""
    if transposed:
        same = aten.convolution(gradient, weight, None, stride, padding, dilation, False, [0] * len(stride), groups)
        return same, None, None
    plain = len(stride) == 2 and groups == 1 and set(dilation) == {1} and stride[0] == stride[1]
    if plain and weight.shape[1] >= FEWEST:
        return _by_phases(gradient, weight, stride[0], padding, x.shape[2:]), None, None
    reached = [
        (gradient.shape[axis + 2] - 1) * step - 2 * padding[axis] + dilation[axis] * (weight.shape[axis + 2] - 1) + 1
        for axis, step in enumerate(stride)
    ]
    rest = [size - end for size, end in zip(x.shape[2:], reached, strict=True)]
    return aten.convolution(gradient, weight, None, stride, padding, dilation, True, rest, groups), None, None


class _Taps(NamedTuple):
    """One axis of a kernel by phase: the tap that meets the gradient at each offset from ``first`` to ``last``."""

    first: int
    last: int
    by_phase: list[list[int | None]]


def _taps(kernel: int, stride: int, padding: int) -> _Taps:
    met = [
        {
            (phase + padding) // stride - j: tap
            for j, tap in enumerate(range((phase + padding) % stride, kernel, stride))
        }
        for phase in range(stride)
    ]
    first, last = (end(offset for taps in met for offset in taps) for end in (min, max))
    return _Taps(first, last, [[taps.get(offset) for offset in range(first, last + 1)] for taps in met])


def _by_phases(gradient: Tensor, weight: Tensor, stride: int, padding: Ints, size: Ints) -> Tensor:
    r"""A transposed convolution as a plain one, which is several times faster where only plain ones are optimised.

    Equation: ``dx[s a + p] = sum_j g[a + (p + pad) // s - j] w[(p + pad) % s + s j]`` along each axis. Each of the
    ``s`` phases ``p`` is a convolution with every s-th tap of the kernel; the phases are channels of a single
    convolution, and are put in their places afterwards.
    """
    rows, columns = (_taps(weight.shape[axis + 2], stride, padding[axis]) for axis in range(2))
    kernel = _kernel(weight, rows, columns)
    (above, below), (left, right) = (
        (-taps.first, -(-size[axis] // stride) + taps.last - gradient.shape[axis + 2])
        for axis, taps in enumerate((rows, columns))
    )
    if (above, left) == (below, right) and min(above, left) >= 0:
        spread = torch.conv2d(gradient, kernel, padding=(above, left))
    else:
        spread = torch.conv2d(pad(gradient, (left, right, above, below)), kernel)
    spread = _interleaved(spread, stride) if stride > 1 else spread
    return spread if spread.shape[2:] == size else spread[:, :, : size[0], : size[1]]


def _interleaved(phases: Tensor, stride: int) -> Tensor:
    """``pixel_shuffle``, first along columns and then along rows: ONNX Runtime takes two thirds of the time so."""
    channels, (height, width) = phases.shape[1] // stride**2, phases.shape[2:]
    columns = phases.view(-1, channels * stride, stride, height, width).permute(0, 1, 3, 4, 2)
    rows = columns.reshape(-1, channels, stride, height, width * stride).permute(0, 1, 3, 2, 4)
    return rows.reshape(-1, channels, height * stride, width * stride)


def _kernel(weight: Tensor, rows: _Taps, columns: _Taps) -> Tensor:
    """The kernels of all phases, (inputs s s, outputs, taps, taps); where a phase has no tap there is a zero."""
    outputs, _, height, width = weight.shape
    absent = height * width  # behind the taps
    places = [
        absent if row is None or column is None else row * width + column
        for across in rows.by_phase for along in columns.by_phase for row in across for column in along
    ]  # fmt: skip
    chosen = pad(weight.flatten(2), (0, 1)).index_select(2, torch.tensor(places, device=weight.device))
    return chosen.reshape(outputs, -1, len(rows.by_phase[0]), len(columns.by_phase[0])).transpose(0, 1)
