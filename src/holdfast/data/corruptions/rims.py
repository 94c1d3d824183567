"""Light on the rims of drops: edges, the distance to them, and a relief of that distance, in whole grey levels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from holdfast.data.corruptions.filters import Border, extended

__all__ = ["distance_to", "edges", "equalised", "rim_light"]

FAR_PX, MARGIN_PX = 20.0, 16
LOW, HIGH = 50, 150
STEPS: tuple[tuple[tuple[int, int], float, int], ...] = (
    ((0, 1), 1.0, 5), ((1, 0), 1.0, 5), ((1, 1), 1.4, 4), ((1, -1), 1.4, 4),
    ((1, 2), 2.1969, 4), ((2, 1), 2.1969, 4), ((1, -2), 2.1969, 4), ((2, -1), 2.1969, 4),
)  # fmt: skip
"""Steps of the 5x5 chamfer metric with their lengths, and how often a doubled step covers `FAR_PX`."""
RELIEF = {(-1, -1): -2, (-1, 0): -1, (0, -1): -1, (0, 0): 1, (0, 1): 1, (1, 0): 1, (1, 1): 2}
MARGINS = ((0, 0), (1, 1), (1, 1))
TAN_22 = 13573
"""tan(22.5 degrees) in 1/32768."""


def rim_light(drops: Tensor) -> Tensor:
    """How bright a drop is, from the distance to the nearest edge.

    Distances end at 20 px, are averaged over 3x3, cut to whole levels, equalised, embossed by
    ``[-2 -1 0; -1 1 1; 0 1 2]`` and averaged again, as OpenCV does it on bytes.

    Args:
        drops: float (B, H, W), whole grey levels.

    Returns:
        float32 (B, H, W), whole grey levels.
    """
    distance = distance_to(edges(drops)).clamp(max=FAR_PX)
    level = equalised(_mean3(distance).floor())
    wide = _bordered(level, "mirror")
    total = torch.zeros_like(level)
    for (row, column), weight in RELIEF.items():
        total.add_(_shifted(wide, row, column), alpha=weight)
    return _mean3(total.clamp_(0, 255)).round_()


def edges(image: Tensor) -> Tensor:
    """Canny's edges with thresholds 50 and 150 on ``|dx| + |dy|`` of 3x3 Sobel filters: bool (B, H, W).

    Args:
        image: float (B, H, W), whole grey levels.
    """
    # NumPy compares several times faster than torch.
    wide = _bordered(image, "edge").short().cpu().numpy()
    smooth_y = wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:]
    smooth_x = wide[..., :-2] + 2 * wide[..., 1:-1] + wide[..., 2:]
    dx, dy = smooth_y[..., 2:] - smooth_y[..., :-2], smooth_x[:, 2:] - smooth_x[:, :-2]
    strength = np.abs(dx) + np.abs(dy)
    crest = _crests(strength, dx.astype(np.int32), dy.astype(np.int32))
    found = crest & (strength > HIGH)
    while True:  # weak edges count where they touch a strong one
        near = np.pad(found, MARGINS)
        near = near[:, :-2] | near[:, 1:-1] | near[:, 2:]
        grown = crest & (near[..., :-2] | near[..., 1:-1] | near[..., 2:])
        if np.array_equal(grown, found):
            return torch.from_numpy(found).to(image.device)
        found = grown


def _crests(strength: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Where a gradient above the low threshold is strongest along its own direction, which is one of four."""
    steep, flat = np.abs(dy) << 15, np.abs(dx) * TAN_22
    across, upright = steep < flat, steep > flat + (np.abs(dx) << 16)
    falling = (dx ^ dy) >= 0
    around = np.pad(strength, MARGINS)
    height, width = strength.shape[1:]

    def neighbour(row: int, column: int) -> np.ndarray:
        return around[:, 1 + row : 1 + row + height, 1 + column : 1 + column + width]

    def above(row: int, column: int) -> np.ndarray:
        return strength > neighbour(row, column)

    # Of two equal neighbours along a row or a column the first is the crest; along a diagonal neither is.
    horizontal = across & above(0, -1) & (strength >= neighbour(0, 1))
    vertical = upright & above(-1, 0) & (strength >= neighbour(1, 0))
    diagonal = (falling & above(-1, -1) & above(1, 1)) | (~falling & above(-1, 1) & above(1, -1))
    crests: np.ndarray = (strength > LOW) & (horizontal | vertical | (diagonal & ~across & ~upright))
    return crests


def distance_to(places: Tensor) -> Tensor:
    """Distance in px from every pixel to the nearest place, in the 5x5 chamfer metric; right up to 20 px.

    A shortest way uses at most two neighbouring directions, so one scan along each of eight suffices.

    Args:
        places: bool (B, H, W).
    """
    # With a margin of its longest reach a picture can be moved as one row of values: what runs over one of its ends
    # and in again at the other has come further than distances are asked for. NumPy, because so small a row is moved
    # several times faster by it.
    wide = pad(torch.where(places, 0.0, 2 * FAR_PX), (MARGIN_PX,) * 4, value=2 * FAR_PX)
    distance = wide.cpu().numpy()
    for picture in distance.reshape(len(wide), -1):
        spare = np.empty_like(picture)
        for (down, right), length, doublings in STEPS:
            for k in range(doublings):
                reach = (down * wide.shape[2] + right) << k
                _relax(picture[:-reach], picture[reach:], spare[reach:], length * (1 << k))
                _relax(picture[reach:], picture[:-reach], spare[reach:], length * (1 << k))
    inner = slice(MARGIN_PX, -MARGIN_PX)
    return torch.from_numpy(distance).to(places.device)[:, inner, inner]


def _relax(here: np.ndarray, there: np.ndarray, spare: np.ndarray, length: float) -> None:
    """Let every value be reached from the one that stands at its place in ``there``; ``spare`` is scratch."""
    np.add(there, np.float32(length), out=spare)
    np.minimum(here, spare, out=here)


def equalised(level: Tensor) -> Tensor:
    """Spread the grey levels of each image so that all are about equally frequent, its least level becoming 0.

    Args:
        level: float (B, H, W), whole grey levels.
    """
    flat = level.flatten(1).long()
    counts = torch.zeros(len(flat), 256, dtype=torch.long, device=flat.device)
    counts.scatter_add_(1, flat, torch.ones_like(flat))
    least = flat.amin(1, keepdim=True)
    above = counts.cumsum(1) - counts.gather(1, least)
    others = flat.shape[1] - counts.gather(1, least)
    table = (above.float() * (255.0 / others.clamp(min=1))).round().clamp(0, 255)
    table = torch.where(others > 0, table, least.float().expand_as(table))
    return table.gather(1, flat).view_as(level)


def _bordered(image: Tensor, border: Border) -> Tensor:
    """The images (B, H, W) with one more pixel on every side."""
    return extended(extended(image, 1, 1, border), 2, 1, border)


def _shifted(wide: Tensor, row: int, column: int) -> Tensor:
    """A bordered image as it was before, moved by -1, 0 or 1 pixels."""
    height, width = wide.shape[1] - 2, wide.shape[2] - 2
    return wide[:, 1 + row : 1 + row + height, 1 + column : 1 + column + width]


def _mean3(image: Tensor) -> Tensor:
    wide = _bordered(image, "mirror")
    rows = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]
    # A ninth is no float: a sum of nine equal values must give that value.
    return (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]) / 9
