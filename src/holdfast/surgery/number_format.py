"""Low-precision numbers on ordinary tensors: fixed point and block floating point, rounded up or down by chance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from holdfast.core.errors import InputError

__all__ = ["BlockFloat", "Blocks", "FixedPoint", "Format", "Rounding"]

Rounding = Literal["stochastic", "nearest"]
Blocks = Literal["tensor", "first", "second"]
"""Which values share an exponent: all of a tensor, or those with one index of its first or second dimension."""


class Format(Protocol):
    """A set of representable numbers."""

    def quantise(self, x: Tensor, *, rounding: Rounding | None = None) -> Tensor:
        """``x`` rounded to representable numbers, as a new tensor of its dtype."""


def _round(scaled: Tensor, rounding: Rounding) -> Tensor:
    """To integers: the nearest, or ``floor(x + u)`` with uniform ``u``, which is right on average."""
    if rounding == "nearest":
        return scaled.round()
    return (scaled + torch.rand_like(scaled)).floor_()


def _times_power(x: Tensor, exponent: Tensor) -> Tensor:
    """``x 2^exponent``, exactly: in two factors, since a power beyond 127 is none of fp32's, and faster than ldexp."""
    half = exponent // 2
    first, second = (torch.ldexp(torch.ones_like(e, dtype=torch.float32), e) for e in (half, exponent - half))
    return (x * first).mul_(second)


def _check(bits: int, rounding: str, *, where: str) -> None:
    if not 2 <= bits <= 24 or rounding not in ("stochastic", "nearest"):
        raise InputError(f"bits {bits}, rounding {rounding!r}", where=where,
                         fix="2 to 24 bits (fp32 holds no more); stochastic or nearest")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FixedPoint:
    """Multiples of ``2^-fraction_bits`` between ``-2^(bits - fraction_bits - 1)`` and one step below its negative.

    Args:
        bits: word length. Default 8.
        fraction_bits: of them behind the point. Default 6.
        rounding: ``stochastic`` (default): unbiased, so that updates below half a step are not lost; ``nearest``.

    Raises:
        InputError: fewer than 2 or more than 24 bits.
    """

    bits: int = 8
    fraction_bits: int = 6
    rounding: Rounding = "stochastic"

    def __post_init__(self) -> None:
        _check(self.bits, self.rounding, where="FixedPoint")

    def quantise(self, x: Tensor, *, rounding: Rounding | None = None) -> Tensor:
        """``x`` rounded and saturated; draws from torch's global generator when rounding is stochastic."""
        limit = 2.0 ** (self.bits - 1)
        step = 2.0**-self.fraction_bits
        return _round(x / step, rounding or self.rounding).clamp_(-limit, limit - 1).mul_(step)


@dataclass(frozen=True, kw_only=True)
class BlockFloat:
    """Integers of ``bits`` times a power of two that a block of values shares.

    ``E = clamp(floor(log2 max|x|), -128, 127)``, ``i = round(x 2^(bits - 2 - E))``, clamped to
    ``[-2^(bits-1), 2^(bits-1) - 1]``. Yang et al. 2019 (SWALP), section 5.

    Args:
        bits: word length of the integers. Default 8.
        blocks: which values share an exponent. Default ``tensor``; ``first`` for weights (output channels).
        rounding: ``stochastic`` (default) or ``nearest``.

    Raises:
        InputError: fewer than 2 or more than 24 bits.
    """

    bits: int = 8
    blocks: Blocks = "tensor"
    rounding: Rounding = "stochastic"

    def __post_init__(self) -> None:
        _check(self.bits, self.rounding, where="BlockFloat")

    def quantise(self, x: Tensor, *, rounding: Rounding | None = None) -> Tensor:
        """``x`` rounded; vectors and scalars are one block. Draws from torch's global generator when stochastic."""
        if not x.numel():
            return x.clone()
        shift = self.bits - 2 - self._exponents(x)
        limit = 2.0 ** (self.bits - 1)
        whole = _round(_times_power(x, shift), rounding or self.rounding).clamp_(-limit, limit - 1)
        return _times_power(whole, -shift).to(x.dtype)

    def _exponents(self, x: Tensor) -> Tensor:
        keep = {"tensor": -1, "first": 0, "second": 1}[self.blocks]
        dims = [dim for dim in range(x.dim()) if dim != keep] if x.dim() > 1 else list(range(x.dim()))
        largest = x.detach().abs().amax(dims, keepdim=True) if dims else x.detach().abs()
        # frexp gives a mantissa in [0.5, 1): its exponent is one above the floor of log2, without rounding errors.
        exponent = torch.frexp(largest).exponent - 1
        return exponent.clamp(-128, 127).masked_fill(largest == 0, -128)
