"""Rounding to a low-precision float written from its definition, one number at a time."""

from __future__ import annotations

import math

FORMATS = {"fp16": (10, -14, 65504.0), "bf16": (7, -126, 3.3895313892515355e38), "tf32": (10, -126, None)}
"""Fraction bits, exponent of the smallest normal number, largest finite number."""


def round_one(value: float, precision: str) -> float:
    """The nearest value of the format; ties go to even, in tf32 away from zero."""
    if not math.isfinite(value) or value == 0.0:
        return value
    fraction_bits, lowest, largest = FORMATS[precision]
    exponent = max(math.frexp(value)[1] - 1, lowest)
    step = 2.0 ** (exponent - fraction_bits)
    count = value / step  # exact: a power of two
    away, even = math.floor(abs(count) + 0.5), round(abs(count))  # Python rounds ties to even
    result = math.copysign((away if precision == "tf32" else even) * step, value)
    if largest is not None and abs(result) > largest:
        return math.copysign(math.inf, value)
    return result
