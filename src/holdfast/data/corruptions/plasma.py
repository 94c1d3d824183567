"""Plasma fractals by the diamond-square algorithm, as the published fog uses them."""

from __future__ import annotations

import torch
from torch import Tensor

from holdfast.data.corruptions.draws import Draws

__all__ = ["plasma"]

FIRST_WOBBLE = 100.0


def plasma(side: int, decay: float, draws: Draws) -> Tensor:
    """A cloud for each sample, on a torus whose side is the next power of two.

    From the coarsest grid to the finest, a point becomes the mean of its four neighbours plus ``w u``,
    ``u ~ U(-w, w)``; ``w`` starts at 100 and is divided by ``decay`` for every finer grid.

    Args:
        side: least number of points along each side.
        decay: 1 or more; the larger, the smoother.
        draws: of the samples.

    Returns:
        float32 (B, N, N), the least value of each sample 0, the greatest 1.
    """
    n = 1 << max(0, side - 1).bit_length()
    cloud = torch.zeros(len(draws), n, n)
    step, wobble = n, FIRST_WOBBLE
    while step >= 2:
        half, count = step // 2, n // step

        def noisy(total: Tensor, count: int = count, wobble: float = wobble) -> Tensor:
            return total / 4 + wobble * draws.uniform(-wobble, wobble, count, count)

        corners = cloud[:, ::step, ::step]
        pairs = corners + corners.roll(-1, 1)
        middles = noisy(pairs + pairs.roll(-1, 2))
        cloud[:, half::step, half::step] = middles
        across = corners + corners.roll(-1, 2)
        cloud[:, ::step, half::step] = noisy(middles + middles.roll(1, 1) + across)
        down = corners + corners.roll(-1, 1)
        cloud[:, half::step, ::step] = noisy(middles + middles.roll(1, 2) + down)
        step, wobble = half, wobble / decay
    cloud -= cloud.amin((1, 2), keepdim=True)
    return cloud / cloud.amax((1, 2), keepdim=True).clamp(min=1e-12)
