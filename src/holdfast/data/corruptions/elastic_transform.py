"""The image is sheared and stretched, as a whole and locally."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from holdfast.data.corruptions.draws import Draws
from holdfast.data.corruptions.filters import gaussian
from holdfast.data.corruptions.published import Table
from holdfast.data.geometry import sampled

__all__ = ["ElasticTransform"]


@dataclass(frozen=True, kw_only=True)
class ElasticTransform:
    """A random affine map, then a random smooth displacement of every pixel. Lengths are shares of the shorter side.

    What the target points at moves by up to a tenth of the image, so where the target depends on places in the image
    (lanes, masks, boxes) its metric counts that displacement as error.

    Args:
        table: published parameters, see `holdfast.data.corruptions.published.Table`.

    Source: Hendrycks and Dietterich, ICLR 2019.
    """

    family: ClassVar[str] = "digital"
    moves_pixels: ClassVar[bool] = True
    severities: ClassVar[tuple[int, ...]] = (1, 2, 3, 4, 5)
    table: Table = "imagenet"

    SHARES: ClassVar[Mapping[Table, tuple[tuple[float, float, float], ...]]] = {
        "imagenet": ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)),
        "cifar": ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    }
    """Strength and smoothness of the displacement, and how far the corners of the affine map move."""
    UNIT: ClassVar[Mapping[Table, float]] = {"imagenet": 244 / 224, "cifar": 1.0}
    """The published code says 244 where it means 224 pixels."""

    def corrupt(self, image: Tensor, severity: int, draws: Draws) -> Tensor:
        """The distorted images; see `holdfast.core.contracts.Corruption`."""
        height, width = image.shape[-2:]
        side = min(height, width) * self.UNIT[self.table]
        strength, smoothness, corner = (share * side for share in self.SHARES[self.table][severity - 1])
        x, y = _affine_places(draws.uniform(-corner, corner, 3, 2), height, width)
        image = sampled(image, x.to(image), y.to(image), border="mirror")
        shift = [draws.uniform(-1, 1, height, width).to(image) for _ in range(2)]
        shift_x, shift_y = (gaussian(s, smoothness, truncate=3, border="symmetric") * strength for s in shift)
        columns, rows = torch.arange(width).to(image), torch.arange(height).to(image)[:, None]
        return sampled(image, columns + shift_x, rows + shift_y, border="symmetric")


def _affine_places(moves: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Columns and rows float64 (B, H, W) of which an affine map takes its pixels.

    The map carries three corners of a square to places ``moves`` (B, 3, 2) away. As in the published code, rows and
    columns of its centre are exchanged, which shows in images that are not square.
    """
    centre = torch.tensor([height // 2, width // 2], dtype=torch.float64)
    reach = min(height, width) // 3
    corners = centre + reach * torch.tensor([[1, 1], [1, -1], [-1, -1]], dtype=torch.float64)
    moved = torch.cat((corners + moves.double(), torch.ones(len(moves), 3, 1, dtype=torch.float64)), dim=2)
    back = torch.linalg.solve(moved, corners.expand(len(moves), -1, -1))
    columns, rows = torch.arange(width, dtype=torch.float64), torch.arange(height, dtype=torch.float64)[:, None]
    found = back[:, 0, :, None, None] * columns + back[:, 1, :, None, None] * rows + back[:, 2, :, None, None]
    return found[:, 0], found[:, 1]
