"""The mean of many vectors in half precision, as cheaply as torch can make it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

__all__ = ["HALVES", "MeanOfHalves"]

HALVES = (torch.float16, torch.bfloat16)
_IN_CACHE, _LANE = 20 << 15, 1 << 12
"""Numbers of all vectors at a time, and how many of one vector side by side, the sums of which stay in the L1 cache."""


class MeanOfHalves:
    r"""``into = mean_k v_k``, added in fp32 and rounded once.

    Average pooling is the one operation of torch that widens halves, adds and narrows them without writing the wide
    numbers to memory: the vectors become the pixels of images one pixel high and ``count`` wide, in channels_last.

    Args:
        count: vectors.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._length = max(_IN_CACHE // count // _LANE * _LANE, _LANE // 8)
        self._block = torch.empty(count * self._length, dtype=torch.int16)

    def __call__(self, into: Tensor, vectors: Sequence[Tensor]) -> None:
        """Average the vectors (n,), which have the dtype of ``into`` (n,), one of `HALVES`."""
        # As int16, because numpy copies twice as fast as torch and has no bf16.
        parts = [vector.view(torch.int16).numpy() for vector in vectors]
        total = into.shape[0]
        for begin in range(0, total, self._length):
            end = min(begin + self._length, total)
            lane = _LANE if (end - begin) % _LANE == 0 else end - begin
            block = self._block[: self._count * (end - begin)].view(-1, self._count * lane)
            np.concatenate([part[begin:end].reshape(-1, lane) for part in parts], axis=1, out=block.numpy())
            pixels = block.view(into.dtype).view(-1, 1, self._count, lane).permute(0, 3, 1, 2)
            into[begin:end].copy_(avg_pool2d(pixels, (1, self._count)).view(-1))
