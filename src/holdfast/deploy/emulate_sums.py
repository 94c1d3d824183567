"""Convolutions and matrix products whose sums are kept in half precision, emulated in fp32.

Which kernel an engine picks decides whether sums stay in fp32 or in fp16, and an emulation cannot know. Both are
therefore emulated (precisions ``fp16`` and ``fp16_accumulate``): a range to expect, no bound, as other algorithms and
fusions round elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["CHUNK", "half_sums"]

CHUNK = 16
"""Products that are added exactly before the sum is rounded: the depth of one half-precision tensor-core step."""

_aten = torch.ops.aten


def half_sums(func: Any) -> Callable[..., Any] | None:
    r"""The operation with sums in fp16, or none if it multiplies no matrices.

    With the terms of a sum in chunks :math:`C_1, C_2, \dots` of at most `CHUNK`, in the order (position in the
    kernel, input channel) of implicit matrix products,

    .. math:: s_j = \operatorname{fp16}\Big(s_{j-1} + \sum_{i \in C_j} a_i b_i\Big), \quad s_0 = 0,

    each inner sum in fp32. A bias is added last. Softmax, norms and means keep their sums in fp32.

    Args:
        func: an ATen overload; its float operands are fp32 tensors that hold fp16 values.
    """
    return _OPERATIONS.get(func)


def _rounded(x: Tensor) -> Tensor:
    return x.copy_(x.half())


def _chunks(length: int) -> Iterator[slice]:
    return (slice(begin, min(begin + CHUNK, length)) for begin in range(0, length, CHUNK))


def _matmul(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` over the last two dimensions; those before are the same."""
    total = a.new_zeros((*a.shape[:-1], b.shape[-1]))
    for chunk in _chunks(a.shape[-1]):
        _rounded(total.add_(a[..., chunk] @ b[..., chunk, :]))
    return total


def _plus(bias: Tensor, product: Tensor, beta: float, alpha: float) -> Tensor:
    return product.mul_(alpha).add_(bias, alpha=beta)


def _addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return _plus(bias, _matmul(a, b), beta, alpha)


def _convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: list[int], padding: list[int], dilation: list[int],
    transposed: bool, output_padding: list[int], groups: int,
) -> Tensor:  # fmt: skip
    """One matrix product for each position in the kernel, on the part of the image that it sees or writes."""
    single = x.dim() == weight.dim() - 1
    x = x[None] if single else x
    sides = weight.dim() - 2
    stride, padding, dilation = (_each(given, sides) for given in (stride, padding, dilation))
    run = _spread if transposed else _gather
    total = run(x, weight, stride, padding, dilation, _each(output_padding, sides), groups)
    if bias is not None:
        total += bias.view(-1, *[1] * sides)
    return total[0] if single else total


def _each(given: list[int], sides: int) -> list[int]:
    return list(given) * sides if len(given) == 1 else list(given)


def _gather(
    x: Tensor, weight: Tensor, stride: list[int], padding: list[int], dilation: list[int], _: list[int], groups: int
) -> Tensor:
    """A convolution: every output reads one input at each position of the kernel."""
    kernel = weight.shape[2:]
    padded = functional.pad(x, [amount for side in reversed(padding) for amount in (side, side)])
    out = [
        (size - gap * (k - 1) - 1) // step + 1
        for size, k, step, gap in zip(padded.shape[2:], kernel, stride, dilation, strict=True)
    ]
    total = x.new_zeros(len(x), groups, weight.shape[0] // groups, *out)
    for position in product(*map(range, kernel)):
        seen = _window(position, out, stride, dilation)
        operand = padded[(slice(None), slice(None), *seen)].reshape(len(x), groups, weight.shape[1], -1)
        factor = _at(weight, position).view(groups, -1, weight.shape[1])
        for chunk in _chunks(weight.shape[1]):
            _rounded(total.add_((factor[..., chunk] @ operand[..., chunk, :]).view_as(total)))
    return total.flatten(1, 2)


def _spread(
    x: Tensor, weight: Tensor, stride: list[int], padding: list[int], dilation: list[int], more: list[int], groups: int
) -> Tensor:
    """A transposed convolution: every input writes one output at each position of the kernel."""
    kernel, size = weight.shape[2:], list(x.shape[2:])
    whole = [
        (n - 1) * step + gap * (k - 1) + 1 + extra
        for n, k, step, gap, extra in zip(size, kernel, stride, dilation, more, strict=True)
    ]
    total = x.new_zeros(len(x), groups, weight.shape[1], *whole)
    operand = x.reshape(len(x), groups, -1, x[0, 0].numel())
    for position in product(*map(range, kernel)):
        written = total[(slice(None), slice(None), slice(None), *_window(position, size, stride, dilation))]
        factor = _at(weight, position).view(groups, -1, weight.shape[1]).transpose(1, 2)
        for chunk in _chunks(operand.shape[2]):
            _rounded(written.add_((factor[..., chunk] @ operand[..., chunk, :]).view_as(written)))
    inner = (slice(side, n - side) for side, n in zip(padding, whole, strict=True))
    return total.flatten(1, 2)[(slice(None), slice(None), *inner)].contiguous()


def _at(weight: Tensor, position: tuple[int, ...]) -> Tensor:
    """What the kernel holds at a position: a matrix over both kinds of channels."""
    return weight.flatten(2)[:, :, np.ravel_multi_index(position, weight.shape[2:])]


def _window(position: tuple[int, ...], count: list[int], stride: list[int], dilation: list[int]) -> tuple[slice, ...]:
    """The ``count`` places along each side, ``stride`` apart, that a position of the kernel meets."""
    return tuple(
        slice(at * gap, at * gap + (n - 1) * step + 1, step)
        for at, n, step, gap in zip(position, count, stride, dilation, strict=True)
    )


def _attention(
    query: Tensor, key: Tensor, value: Tensor, dropout_p: float = 0.0, is_causal: bool = False, *,
    attn_mask: Tensor | None = None, scale: float | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Both products of attention in chunks, the softmax between them in fp32 and its result stored in fp16."""
    scores = _matmul(query, key.transpose(-2, -1)) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        scores.masked_fill_(scores.new_ones(scores.shape[-2:], dtype=torch.bool).triu_(1), float("-inf"))
    if attn_mask is not None:
        scores += attn_mask
    return _matmul(_rounded(scores.softmax(-1)), value), scores.logsumexp(-1)


_OPERATIONS: dict[Any, Callable[..., Any]] = {
    _aten.mm.default: _matmul,
    _aten.bmm.default: _matmul,
    _aten.addmm.default: _addmm,
    _aten.baddbmm.default: _addmm,
    _aten.convolution.default: _convolution,
    _aten._scaled_dot_product_flash_attention_for_cpu.default: _attention,
}
