"""Convolutions with sums in fp16, written from the definition: one output, one chunk of products at a time."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

import numpy as np
from rounding_twin import round_one

CHUNK = 16


def dot(terms: Iterable[list[tuple[float, float]]]) -> float:
    """Runs of pairs; each run is cut into chunks, and the sum is rounded after every chunk."""
    total = 0.0
    for run in terms:
        for begin in range(0, len(run), CHUNK):
            total = round_one(total + sum(a * b for a, b in run[begin : begin + CHUNK]), "fp16")
    return total


def convolution(x, weight, *, stride: int, padding: int, dilation: int, groups: int):
    """Of one image (channels, height, width); weight (outputs, channels of a group, kernel, kernel)."""
    outputs, inside, kernel, _ = weight.shape
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    height, width = ((side - dilation * (kernel - 1) - 1) // stride + 1 for side in padded.shape[1:])
    result = np.zeros((outputs, height, width))
    for o, i, j in product(range(outputs), range(height), range(width)):
        first = o // (outputs // groups) * inside
        result[o, i, j] = dot(
            [(weight[o, c, p, q], padded[first + c, i * stride + p * dilation, j * stride + q * dilation])
             for c in range(inside)]
            for p, q in product(range(kernel), repeat=2)
        )  # fmt: skip
    return result


def transposed(x, weight, *, stride: int, padding: int, output_padding: int):
    """Of one image (channels, height, width); weight (channels, outputs, kernel, kernel)."""
    channels, outputs, kernel, _ = weight.shape
    whole = [(n - 1) * stride + kernel + output_padding for n in x.shape[1:]]
    result = np.zeros((outputs, *whole))
    for o, i, j in product(range(outputs), *map(range, whole)):
        met = [
            ((i - p) // stride, (j - q) // stride, p, q)
            for p, q in product(range(kernel), repeat=2)
            if (i - p) % stride == (j - q) % stride == 0
            and 0 <= i - p <= (x.shape[1] - 1) * stride and 0 <= j - q <= (x.shape[2] - 1) * stride
        ]  # fmt: skip
        result[o, i, j] = dot([(weight[c, o, p, q], x[c, a, b]) for c in range(channels)] for a, b, p, q in met)
    return result[:, padding : whole[0] - padding, padding : whole[1] - padding]
