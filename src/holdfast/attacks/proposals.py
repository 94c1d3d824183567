"""What Square proposes: a window at a corner of the L-infinity ball, or mass moved into a bump of the L2 ball."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TypeAlias

import torch
from torch import Generator, Tensor

from holdfast.attacks.geometry import Ball
from holdfast.attacks.samples import per_sample_norm, uniform

__all__ = ["Draws", "Window", "at_corners", "cut", "move_mass"]

Window: TypeAlias = tuple[slice, slice]
"""Rows and columns."""

TINY, SMALLEST_BUMP, TILES = 1e-12, 3, 5


class Draws:
    """Everything random of one attack, drawn before it begins, so that nothing waits for the device on the way.

    Args:
        ball: around all samples.
        generator: of the draws.
        queries: how many proposals there will be.

    Attributes:
        size: height and width; a tensor (B, n) has one row.
        channels: shape of one number for each channel, (C, 1, 1).
        signs: +-1 for each channel of each proposal, (queries, C).
    """

    def __init__(self, ball: Ball, generator: Generator, queries: int) -> None:
        x = ball.x
        self.size = (int(x.shape[-2]) if x.ndim > 2 else 1, int(x.shape[-1]))
        self._ball, self._generator = ball, generator
        self.channels = torch.Size((*x.shape[1:-2], *([1] * min(x.ndim - 1, 2))))
        # In single precision: a half may round to 1.
        places = torch.empty(queries, 5, device=generator.device, dtype=torch.float32)
        self._places: list[list[float]] = places.uniform_(generator=generator).tolist()
        self.signs = self._sign(queries, max(self.channels.numel(), 1))

    def window(self, query: int, side: int, *, which: int = 0) -> Window:
        """Where a proposal acts, inside the image."""
        (height, width), (down, right) = self.size, self._places[query][2 * which : 2 * which + 2]
        rows, columns = min(side, height), min(side, width)
        row, column = int(down * (height - rows + 1)), int(right * (width - columns + 1))
        return slice(row, row + rows), slice(column, column + columns)

    def windows(self, sides: Sequence[int]) -> Tensor:
        """Where every proposal acts: rows from, to, columns from, to, int64 (queries, 4), where the images are."""
        spans = [self.window(query, side) for query, side in enumerate(sides)]
        edges = torch.tensor([[rows.start, rows.stop, columns.start, columns.stop] for rows, columns in spans])
        return edges.to(self._ball.x.device)

    def turned(self, query: int) -> bool:
        """Whether a proposal's bump is transposed."""
        return self._places[query][4] > 0.5

    def stripes(self) -> Tensor:
        """Vertical stripes at the corners of the L-infinity ball."""
        ball, one_row = self._ball, [1] * min(self._ball.x.ndim - 2, 1)
        signs = self._sign(len(ball.x), *ball.x.shape[1:-2], *one_row, self.size[1])
        return ball.project(ball.x + ball.radius * signs)

    def bumps(self) -> Tensor:
        """A grid of bumps of random sign, at the edge of the L2 ball."""
        ball, (height, width) = self._ball, self.size
        rows, columns = max(height // TILES, 1), max(width // TILES, 1)
        delta = torch.zeros_like(ball.x)
        top, left = (height % rows) // 2, (width % columns) // 2
        for row in range(top, height - rows + 1, rows):
            for column in range(left, width - columns + 1, columns):
                window = slice(row, row + rows), slice(column, column + columns)
                signs = self._sign(len(ball.x), *self.channels)
                place = cut(delta, window)
                place.copy_(_bump_like(place) * signs)
        return ball.project(ball.x + ball.radius * delta / per_sample_norm(delta))

    def _sign(self, *shape: int) -> Tensor:
        return 2.0 * (uniform(shape, self._generator, like=self._ball.x) > 0.5).to(self._ball.x) - 1.0


def cut(tensor: Tensor, window: Window) -> Tensor:
    """The window of a tensor (B, ..., H, W) or (B, n), a view; dimensions of size 1 stay as they are."""
    if tensor.ndim > 2 and 1 not in tensor.shape[-2:]:
        return tensor[(..., *window)]
    for dim, place in zip((-2, -1), window, strict=True):
        if tensor.ndim > -dim and tensor.shape[dim] > 1:
            tensor = tensor.narrow(dim, place.start, place.stop - place.start)
    return tensor


def at_corners(ball: Ball, z: Tensor, windows: Tensor, signs: Tensor, side: int) -> Tensor:
    """Proposals for each image, each with a window at a corner of the L-infinity ball; a new tensor (B, n, ...).

    Only the elements of windows are looked up: masks over whole images take several times as long.

    Args:
        ball: around the images.
        z: float (B, ...), where they are.
        windows: int64 (B, n, 4), or for all images alike (1, n, 4), see `Draws.windows`.
        signs: of the corners, (B or 1, n, C), see `Draws.signs`.
        side: of the largest window.
    """
    n, count, channels = len(z), windows.shape[1], signs.shape[-1]
    top, bottom, left, right = windows[..., None].unbind(-2)
    span, width = torch.arange(side, device=z.device), z.shape[-1]
    # A smaller window writes its last row and column several times.
    rows, columns = (top + span).minimum(bottom - 1), (left + span).minimum(right - 1)
    place = (rows[..., None] * width + columns[..., None, :]).flatten(2)[:, :, None].expand(n, count, channels, -1)
    low, high, flat = (values.reshape(n, 1, channels, -1).expand(-1, count, -1, -1) for values in (*ball.bounds, z))
    corner = torch.where(signs[..., None] > 0, high.gather(3, place), low.gather(3, place))
    return flat.scatter(3, place, corner).view(n, count, *z.shape[1:])


def move_mass(ball: Ball, z: Tensor, draws: Draws, query: int, side: int) -> Tensor:
    """``z`` with the mass of one window moved into a bump in another, a new tensor."""
    side = max(side, SMALLEST_BUMP) | 1  # odd
    into, out_of = draws.window(query, side), draws.window(query, side, which=1)
    delta = ball.scaled(z)
    rest, kept = delta.clone(), cut(delta, into)
    cut(rest, into).zero_()
    cut(rest, out_of).zero_()
    total, outside = (per_sample_norm(part) ** 2 for part in (delta, rest))
    spare = (1.0 - total).clamp(min=0.0) / max(z[0].numel() // (draws.size[0] * draws.size[1]), 1)
    fresh = _bump_like(kept, turned=draws.turned(query)) * draws.signs[query].view(draws.channels) + kept / (
        _window_norm(kept) + TINY
    )
    fresh = fresh / (_window_norm(fresh) + TINY) * (spare + (total - outside).clamp(min=0.0)).sqrt()
    cut(rest, into).copy_(fresh)
    return ball.project(ball.x + ball.radius * rest / per_sample_norm(rest))


@cache
def bump(height: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Two opposite hills, one in each half of the rows, of total length 1, (height, width).

    A hill is a sum of nested rectangles, the k-th of value ``1 / k^2``, of length 1.
    """
    both = torch.zeros(height, width, device=device, dtype=dtype)  # filled where it is used: nothing is sent there
    half = height // 2
    _raise_hill(both[:half], 1.0)
    _raise_hill(both[half:], -1.0)
    return both.div_(both.norm())


def _raise_hill(hill: Tensor, sign: float) -> None:
    height, width = hill.shape
    top, left = height // 2, width // 2
    for ring in range(max(top, left) + 1):
        rows = slice(max(top - ring, 0), min(top + ring + 1, height))
        columns = slice(max(left - ring, 0), min(left + ring + 1, width))
        hill[rows, columns] += 1.0 / (ring + 1) ** 2
    hill.mul_(sign / hill.norm().clamp(min=TINY))


def _bump_like(window: Tensor, *, turned: bool = False) -> Tensor:
    """A bump for a window (B, ..., h, w) or (B, w), transposed if asked and if it is a square."""
    height, width = window.shape[-2] if window.ndim > 2 else 1, window.shape[-1]
    shape = bump(height, width, window.device, window.dtype)
    shape = shape.T if turned and height == width else shape
    return shape if window.ndim > 2 else shape[0]


def _window_norm(window: Tensor) -> Tensor:
    """Length over the window of each sample and channel."""
    length: Tensor = torch.linalg.vector_norm(window, dim=(-2, -1) if window.ndim > 2 else (-1,), keepdim=True)
    return length
