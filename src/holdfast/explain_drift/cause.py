"""What an entry of the drift catalogue is: a named, fitted change of a picture that can be applied and undone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar, Literal, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from holdfast.explain_drift.domain import Domain

__all__ = ["Cause", "Leaves", "Pair", "Tiles", "block_means", "filtered"]

BLOCK = 8
Leaves: TypeAlias = Literal["nothing", "detail", "rounding"]
"""What a cause leaves that cannot be computed from the training tensor: nothing, errors that follow the local
detail (aliasing), or errors of at most half a grey level."""


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """Pieces cut from a picture, so that a search need not touch every pixel.

    Args:
        pixels: float32 (K, C, h, w), grey levels.
        origin: int64 (K, 2), row and column of each piece in the picture.
        size: height and width of the picture.
        aligned: whole pixels (down, right) by which the pieces were already cut elsewhere.
    """

    pixels: Tensor
    origin: Tensor
    size: tuple[int, int]
    aligned: tuple[int, int] = (0, 0)

    def with_pixels(self, pixels: Tensor) -> Tiles:
        """The same places with other values."""
        return replace(self, pixels=pixels)

    def places(self) -> tuple[Tensor, Tensor]:
        """Row (K, h, 1) and column (K, 1, w) of every pixel, float, in px from the centre of the picture."""
        height, width = self.pixels.shape[-2:]
        rows = self.origin[:, :1] + torch.arange(height) - (self.size[0] - 1) / 2
        columns = self.origin[:, 1:] + torch.arange(width) - (self.size[1] - 1) / 2
        return rows.float()[:, :, None], columns.float()[:, None, :]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What a cause is asked to explain: ``before`` its stage on the training side, ``after`` it on the vehicle's.

    Causes of earlier stages are already applied to ``before``, causes of later stages undone in ``after``; both
    are in the grey levels of ``domain``, the training side's normalisation. ``whole`` says of each side
    whether it was recorded in whole grey levels.
    """

    before: Tiles
    after: Tiles
    domain: Domain
    whole: tuple[bool, bool]


class Cause(Protocol):
    """One thing the vehicle may do differently: a frozen dataclass whose fields are its fitted parameters.

    ``family`` is the class that is announced; ``stage`` its place on the way from camera to network, in which order
    causes are applied; ``cost`` the evidence in nats it must bring before it is believed.
    """

    family: ClassVar[str]
    stage: ClassVar[int]

    @property
    def name(self) -> str:
        """Member of the family, e.g. ``"bt601_decoded_as_bt709"``."""

    @property
    def detail(self) -> str:
        """The cause for people, with parameters and units."""

    @property
    def cost(self) -> float:
        """Evidence in nats that the cause must bring."""

    @property
    def leaves(self) -> Leaves:
        """What it leaves unexplained by its nature."""

    @property
    def hides(self) -> tuple[str, ...]:
        """Families that cannot be seen beside this cause, as it would explain their effect too."""

    def apply(self, tiles: Tiles) -> Tensor:
        """Pixels just before this stage -> pixels just after it."""

    def undo(self, tiles: Tiles) -> Tensor:
        """The inverse as far as there is one; a stage that loses information gives the pixels back."""

    @classmethod
    def propose(cls, pair: Pair) -> Sequence[Cause]:
        """Fitted causes of this family that might turn ``pair.before`` into ``pair.after``."""


def block_means(pixels: Tensor) -> Tensor:
    """Means over blocks of 8 x 8 (K, C, H/8, W/8): edges and aliasing average out, colour stays."""
    rows, columns = (_averaging(extent) for extent in pixels.shape[-2:])
    return (rows.T @ pixels) @ columns


def filtered(pixels: Tensor, taps: Sequence[Sequence[float]]) -> Tensor:
    """Every plane of (K, C, H, W) correlated with ``taps``, without padding; a group a plane is the fast way."""
    planes = pixels.flatten(0, 1)[None]
    weights = pixels.new_tensor(taps).expand(planes.shape[1], 1, -1, -1)
    found: Tensor = functional.conv2d(planes, weights, groups=planes.shape[1])[0]
    return found.view(*pixels.shape[:2], *found.shape[1:])


@cache
def _averaging(extent: int) -> Tensor:
    """Matrix (extent, extent // 8) that averages neighbours; one block where there are fewer than 8."""
    side = min(BLOCK, extent)
    count = extent // side
    matrix = torch.zeros(extent, count)
    matrix[: count * side] = torch.eye(count).repeat_interleave(side, dim=0) / side
    return matrix
