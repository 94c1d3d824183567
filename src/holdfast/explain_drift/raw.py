"""Naming the resize kernels of both sides, once the raw frame they were made from is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from holdfast.core.errors import InputError
from holdfast.explain_drift.cause import Leaves, Pair, Tiles, block_means
from holdfast.explain_drift.causes.displacement import Displacement
from holdfast.explain_drift.causes.kernel import Kernel
from holdfast.explain_drift.domain import DOMAINS
from holdfast.explain_drift.resizers import RESIZERS
from holdfast.explain_drift.search import Hypothesis, Search
from holdfast.explain_drift.structure import Structure
from holdfast.explain_drift.tiles import whole_picture

__all__ = ["Resized", "name_kernels"]

FINE_LEVELS = 0.75
COARSE_LEVELS = 1.0
COARSE_SHARE = 0.99
"""Errors, in grey levels, that a frame of the same moment stays below: at full resolution on average, and in nearly all
blocks. Another moment of a moving scene differs block by block, one of a still scene by its noise."""
RIM = 2
TIE = 1.15
TIE_NATS = 0.2


@dataclass(frozen=True, kw_only=True)
class Resized:
    """The vehicle's picture resized from the raw frame in another way than training's.

    Args:
        training, vehicle: names of the ways; several where they cannot be told apart on this frame.
        picture: (C, H, W) grey levels, the raw frame resized in the vehicle's way.
        displaced: a displacement follows.
    """

    family: ClassVar[str] = "resize_kernel"
    stage: ClassVar[int] = -1
    cost: ClassVar[float] = 0.3
    leaves: ClassVar[Leaves] = "nothing"
    hides: ClassVar[tuple[str, ...]] = ()
    name: ClassVar[str] = "resize_kernel"
    training: tuple[str, ...] = ()
    vehicle: tuple[str, ...] = ()
    picture: Tensor = field(default_factory=lambda: torch.zeros(3, 1, 1), compare=False, repr=False)
    displaced: bool = False

    @property
    def detail(self) -> str:
        """Both ways."""
        return f"resize on the vehicle: {' or '.join(self.vehicle)}; in training: {' or '.join(self.training)}"

    def apply(self, tiles: Tiles) -> Tensor:
        """The same places of the other picture."""
        height, width = tiles.pixels.shape[-2:]
        moved = (0, 0) if self.displaced else tiles.aligned
        corners = (tiles.origin - torch.tensor(moved)).tolist()
        return torch.stack([self.picture[:, y : y + height, x : x + width] for y, x in corners])

    def undo(self, tiles: Tiles) -> Tensor:
        """A picture resized once cannot be resized again from the frame."""
        return tiles.pixels

    @classmethod
    def propose(cls, pair: Pair) -> list[Resized]:
        """Never: it needs the raw frame."""
        return []


def name_kernels(structure: Structure, search: Search, found: Hypothesis, raw: Tensor) -> tuple[Hypothesis, str]:
    """Resize the raw frame in every way that has a name, and judge anew what spoke of resize and displacement.

    Args:
        structure: both pictures in one form.
        search: the search that explained them.
        found: what it found.
        raw: the frame (C, H, W) in grey levels, cropped to what the network sees, channels as on the training side.

    Returns:
        The causes with the kernels named, and a sentence on the training side's kernel.

    Raises:
        InputError: no way of resizing makes the training side's tensor from this frame.
    """
    made = _made(structure, search, raw)
    training = _training_kernels(structure.before, made)
    others = [cause for cause in found.causes if not isinstance(cause, Kernel | Displacement)]
    moves = [cause for cause in found.causes if isinstance(cause, Displacement)]
    judged = {}
    for displaced in (False, True) if moves else (False,):
        for name, picture in made.items():
            way = Resized(picture=picture, displaced=displaced)
            judged[name, displaced] = search.judge([*others, *(moves if displaced else []), way])
    best = min(judged, key=lambda key: judged[key].score)
    limit = judged[best].score + TIE_NATS
    vehicle = tuple(
        name for name, displaced in judged if displaced == best[1] and judged[name, displaced].score <= limit
    )
    sentence = f"training resizes with {' or '.join(training)}"
    if set(vehicle) & set(training) or judged[best].score > found.score:
        kept = [*others, *moves] if best[1] or not set(vehicle) & set(training) else others
        return search.judge(kept), f"{sentence}, and so does the vehicle"
    way = Resized(training=training, vehicle=vehicle, picture=made[best[0]], displaced=best[1])
    return search.judge([*others, *(moves if best[1] else []), way]), sentence


def _made(structure: Structure, search: Search, raw: Tensor) -> dict[str, Tensor]:
    size = (structure.before.shape[-2], structure.before.shape[-1])
    made = {name: resize(raw[None].float(), size)[0] for name, resize in RESIZERS.items()}
    return {name: picture.round() for name, picture in made.items()} if search.whole[0] else made


def _training_kernels(before: Tensor, made: Mapping[str, Tensor]) -> tuple[str, ...]:
    errors = {name: float((before - picture).abs().mean()) for name, picture in made.items()}
    nearest = min(errors, key=lambda name: errors[name])
    fine, coarse = _unexplained(before, made[nearest])
    if fine > FINE_LEVELS or coarse > COARSE_LEVELS:
        raise InputError(
            f"is not the frame of the training side: resized in {len(made)} ways, and filtered, it stays {fine:.1f} "
            f"grey levels away on average and {coarse:.1f} in some blocks", where="raw frame",
            fix="give the frame of the same moment, and --crop if the network sees a part of it",
        )  # fmt: skip
    best = errors[nearest]
    return tuple(name for name in sorted(errors, key=lambda name: errors[name]) if errors[name] <= best * TIE + 0.02)


def _unexplained(before: Tensor, picture: Tensor) -> tuple[float, float]:
    """What is left of the difference beside a small filter, as a kernel without a name may need it.

    Returns:
        Mean absolute error at full resolution, and the error that few blocks of 8 x 8 exceed; in grey levels.
    """
    source, target = whole_picture(picture), whole_picture(before)
    pair = Pair(before=source, after=target, domain=DOMAINS[0], whole=(False, False))
    [filtered] = Kernel.propose(pair)
    left = [target.pixels - pixels for pixels in (picture[None], filtered.apply(source))]
    rest = min(left, key=lambda error: float(error.abs().mean()))[..., RIM:-RIM, RIM:-RIM]
    blocks = block_means(rest).abs().amax(1).flatten()
    return float(rest.abs().mean()), float(torch.quantile(blocks, COARSE_SHARE))
