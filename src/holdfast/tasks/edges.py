"""Edges of a mask along image rows, to a fraction of a pixel, and how far they lie apart in two masks."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["edge_shift", "row_edges"]

MOST = 16
"""Edges of a row that are compared; a row with more is noise, not lines."""


def row_edges(row: Tensor) -> tuple[Tensor, Tensor]:
    """Where a profile crosses one half, by linear interpolation between pixel centres.

    Args:
        row: coverage or probability, float (B, W).

    Returns:
        Positions in pixels, float (B, 16), in order and ``inf`` where there are fewer, and their number int64 (B,).
    """
    left, right = row[:, :-1] - 0.5, row[:, 1:] - 0.5
    crossing = (left < 0) != (right < 0)
    position = torch.arange(row.shape[1] - 1, device=row.device) + left / (left - right)
    ordered = torch.where(crossing, position, torch.inf).sort(dim=1).values
    return ordered[:, :MOST], crossing.sum(1)


def edge_shift(reference: Tensor, other: Tensor) -> Tensor:
    """Mean distance between the edges of two profiles, matched from left to right.

    ``1/E sum_e |x_e - x'_e|`` in pixels, float (B,). NaN where the two do not show the same number of edges (a
    line found by one alone has no distance), none, or more than 16.

    Args:
        reference: coverage or probability, float (B, W).
        other: the same of the other mask.
    """
    (x, n), (y, m) = row_edges(reference), row_edges(other)
    there = x.isfinite() & y.isfinite()
    apart = torch.where(there, x - y, 0.0).abs().sum(1) / n
    return torch.where((n == m) & (n > 0) & (n <= MOST), apart, torch.nan)
