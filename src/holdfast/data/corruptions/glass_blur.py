"""Frosted glass: pixels change places with near ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from holdfast.data.corruptions.draws import Draws
from holdfast.data.corruptions.filters import gaussian
from holdfast.data.corruptions.published import Table

__all__ = ["GlassBlur", "copied_from"]


@dataclass(frozen=True, kw_only=True)
class GlassBlur:
    """Blur, cut off to whole levels, let every pixel take the value of a near one, several times over, and blur again.

    The published code exchanges two pixels, but both sides of its exchange are views of the same array, so what it does
    is to copy; pixels are visited from the last to the first, and a copied value may be copied on. Here the chains of
    copies are followed by pointer doubling, all pixels at once, to the same result.

    Args:
        table: published parameters, see `holdfast.data.corruptions.published.Table`.

    Source: Hendrycks and Dietterich, ICLR 2019.
    """

    family: ClassVar[str] = "blur"
    moves_pixels: ClassVar[bool] = False
    severities: ClassVar[tuple[int, ...]] = (1, 2, 3, 4, 5)
    table: Table = "imagenet"

    SIGMA_REACH_ROUNDS: ClassVar[Mapping[Table, tuple[tuple[float, int, int], ...]]] = {
        "imagenet": ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        "cifar": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    }

    def corrupt(self, image: Tensor, severity: int, draws: Draws) -> Tensor:
        """The images behind glass; see `holdfast.core.contracts.Corruption`."""
        sigma, reach, rounds = self.SIGMA_REACH_ROUNDS[self.table][severity - 1]
        # Twice the precision, because the cut to whole levels tells 99.9999 from 100.
        levels = (gaussian(image.double() / 255, sigma) * 255).floor().to(image.dtype)
        height, width = image.shape[-2:]
        inner = (max(0, height - 2 * reach), max(0, width - 2 * reach))
        source = torch.arange(height * width, device=image.device).expand(len(image), -1)
        for moves in draws.integers(-reach, reach, rounds, *inner, 2).unbind(1):
            step = copied_from(moves.to(image.device), reach, (height, width))
            source = source.gather(1, step)
        shuffled = levels.flatten(2).gather(2, source[:, None].expand(-1, image.shape[1], -1)).view_as(levels)
        return gaussian(shuffled, sigma)


def copied_from(moves: Tensor, reach: int, size: tuple[int, int]) -> Tensor:
    """Where the value of each pixel stood before one round of copies.

    Args:
        moves: int64 (B, H - 2 reach, W - 2 reach, 2): columns and rows to the pixel that is copied, in the order in
            which pixels are visited, which is from row ``H - reach`` and column ``W - reach`` down to ``reach + 1``.
        reach: largest move.
        size: (H, W).

    Returns:
        int64 (B, H W), indices of pixels.
    """
    height, width = size
    everywhere = torch.arange(height * width, device=moves.device).view(1, height, width)
    block = (slice(None), slice(reach + 1, height - reach + 1), slice(reach + 1, width - reach + 1))
    place, moves = everywhere[block], moves.flip(1, 2)
    target = place + moves[..., 1] * width + moves[..., 0]
    visited = torch.zeros_like(everywhere, dtype=torch.bool)
    visited[block] = True
    # A pixel visited before has its new value already, and that is its own target's.
    follows = (target > place) & visited.flatten()[target]
    source, link = (everywhere.repeat(len(moves), 1, 1) for _ in range(2))
    source[block], link[block] = target, torch.where(follows, target, place)
    source, link = source.flatten(1), link.flatten(1)
    while True:
        further = link.gather(1, link)
        if torch.equal(further, link):
            return source.gather(1, link)
        link = further
