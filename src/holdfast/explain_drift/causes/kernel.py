"""Another resize kernel, seen from two net-input tensors: a small filter and aliasing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from holdfast.explain_drift.cause import Leaves, Pair, Tiles, filtered

__all__ = ["Kernel"]

RADIUS = 2
NEIGHBOURS = tuple((i, j) for i in range(RADIUS + 1) for j in range(RADIUS + 1) if i or j)


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A symmetric 5 x 5 filter of sum 1; what it cannot reproduce is aliasing, which follows the detail.

    Args:
        weights: of the offsets ``NEIGHBOURS``, each standing for its mirror images too.
    """

    family: ClassVar[str] = "resize_kernel"
    hides: ClassVar[tuple[str, ...]] = ()
    stage: ClassVar[int] = 5
    cost: ClassVar[float] = 0.3
    leaves: ClassVar[Leaves] = "detail"
    weights: tuple[float, ...] = (0.0,) * len(NEIGHBOURS)

    @property
    def name(self) -> str:
        """Whether the vehicle's picture is sharper or softer."""
        return "resize_kernel_softer" if self._gain() < 1 else "resize_kernel_sharper"

    @property
    def detail(self) -> str:
        """Gain at the finest detail."""
        return f"another resize kernel or antialiasing (finest detail x {self._gain():.2f})"

    def _gain(self) -> float:
        """Response at a quarter of the sampling frequency, mean of both directions."""
        taps = torch.tensor(self._taps())
        phase = torch.cos(torch.arange(-RADIUS, RADIUS + 1) * torch.pi / 2)
        return float((taps.sum(0) @ phase + taps.sum(1) @ phase) / 2)

    def _taps(self) -> list[list[float]]:
        side = 2 * RADIUS + 1
        taps = [[0.0] * side for _ in range(side)]
        for (i, j), weight in zip(NEIGHBOURS, self.weights, strict=True):
            for y, x in _mirrors(i, j):
                taps[RADIUS + y][RADIUS + x] = weight
        taps[RADIUS][RADIUS] = 1 - sum(map(sum, taps))
        return taps

    def apply(self, tiles: Tiles) -> Tensor:
        """The filtered picture."""
        return filtered(functional.pad(tiles.pixels, (RADIUS,) * 4, mode="replicate"), self._taps())

    def undo(self, tiles: Tiles) -> Tensor:
        """Lost detail stays lost."""
        return tiles.pixels

    @classmethod
    def propose(cls, pair: Pair) -> list[Kernel]:
        """The filter that fits luma best, by least squares."""
        source, target = (tiles.pixels.mean(1, keepdim=True) for tiles in (pair.before, pair.after))
        inner = source[..., RADIUS:-RADIUS, RADIUS:-RADIUS]
        height, width = source.shape[-2:]
        columns = []
        for i, j in NEIGHBOURS:
            shifted = [
                source[..., RADIUS + y : height - RADIUS + y, RADIUS + x : width - RADIUS + x] - inner
                for y, x in _mirrors(i, j)
            ]
            columns.append(torch.stack(shifted).sum(0).flatten())
        design = torch.stack(columns).double()
        wanted = (target[..., RADIUS:-RADIUS, RADIUS:-RADIUS] - inner).flatten().double()
        wanted = wanted - wanted.mean()
        normal = design @ design.T
        normal += torch.diag(normal.diagonal() * 1e-4 + 1e-6)
        return [cls(weights=tuple(torch.linalg.solve(normal, design @ wanted).tolist()))]


def _mirrors(i: int, j: int) -> set[tuple[int, int]]:
    return {(y, x) for y in (-i, i) for x in (-j, j)}
