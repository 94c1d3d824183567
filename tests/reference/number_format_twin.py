"""Low-precision numbers, one value at a time in Python floats; ``u`` is the draw of stochastic rounding."""

from __future__ import annotations

import math
from collections.abc import Sequence


def fixed_point(x: float, bits: int, fraction_bits: int, u: float | None) -> float:
    scaled = x * 2.0**fraction_bits
    whole = round(scaled) if u is None else math.floor(scaled + u)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return max(low, min(high, whole)) / 2.0**fraction_bits


def block_float(block: Sequence[float], bits: int, draws: Sequence[float] | None) -> list[float]:
    largest = max(abs(x) for x in block)
    if largest == 0:
        return [0.0] * len(block)
    exponent = max(-128, min(127, math.floor(math.log2(largest))))
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    rounded = []
    for index, x in enumerate(block):
        scaled = x * 2.0 ** (bits - 2 - exponent)
        whole = round(scaled) if draws is None else math.floor(scaled + draws[index])
        rounded.append(max(low, min(high, whole)) * 2.0 ** (exponent - bits + 2))
    return rounded
