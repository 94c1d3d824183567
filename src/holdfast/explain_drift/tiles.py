"""Cutting the same small pieces out of two pictures."""

from __future__ import annotations

import torch
from torch import Tensor

from holdfast.explain_drift.cause import Tiles

__all__ = ["MARGIN", "cut_tiles", "whole_picture"]

SIDE = 80
MARGIN = 8
COUNT = 12


def cut_tiles(before: Tensor, after: Tensor, aligned: tuple[int, int]) -> tuple[Tiles, Tiles]:
    """Up to twelve pieces of 80 x 80, half of them where there is most detail, half spread evenly.

    ``after[y, x]`` looks like ``before[y + aligned[0], x + aligned[1]]``. Pieces start at even rows and columns of
    ``before``, so that chroma blocks stay whole. A small picture is one piece.
    """
    size = (after.shape[-2], after.shape[-1])
    spans = [
        (max(0, -shift) + (max(0, -shift) + shift) % 2, extent - max(0, shift))
        for shift, extent in zip(aligned, size, strict=True)
    ]
    side = [min(SIDE, stop - start) // 2 * 2 for start, stop in spans]
    rows, columns = (_starts(span, length) for span, length in zip(spans, side, strict=True))
    places = torch.cartesian_prod(rows, columns)
    if len(places) > COUNT:
        places = places[_chosen(after, places, side)]
    moved = places + torch.tensor(aligned)
    pieces = [
        torch.stack([picture[:, y : y + side[0], x : x + side[1]] for y, x in where.tolist()]).float()
        for picture, where in ((before, moved), (after, places))
    ]
    return (
        Tiles(pixels=pieces[0], origin=moved, size=size, aligned=aligned),
        Tiles(pixels=pieces[1], origin=places, size=size, aligned=aligned),
    )


def whole_picture(picture: Tensor) -> Tiles:
    """A picture as its only piece."""
    return Tiles(
        pixels=picture[None].float(), origin=torch.zeros(1, 2, dtype=torch.int64),
        size=(picture.shape[-2], picture.shape[-1]),
    )  # fmt: skip


def _starts(span: tuple[int, int], side: int) -> Tensor:
    """Starts of pieces along an axis: even steps from the first place, at most half overlapping."""
    return torch.arange(span[0], span[1] - side + 1, max(2, side // 2 // 2 * 2))


def _chosen(picture: Tensor, places: Tensor, side: list[int]) -> Tensor:
    """Half of the places evenly spread, the other half where neighbouring pixels differ most."""
    luma = picture.float().mean(0)
    detail = torch.zeros(luma.shape[0] + 1, luma.shape[1] + 1, dtype=torch.float64)
    detail[1:, 2:] = (luma[:, 1:] - luma[:, :-1]).abs()
    total = detail.cumsum(0).cumsum(1)
    top, left = places.T
    bottom, right = top + side[0], left + side[1]
    scores = total[bottom, right] - total[top, right] - total[bottom, left] + total[top, left]
    spread = torch.linspace(0, len(places) - 1, COUNT // 2).round().long()
    scores[spread] = -1
    return torch.cat((spread, scores.topk(COUNT - COUNT // 2).indices))
