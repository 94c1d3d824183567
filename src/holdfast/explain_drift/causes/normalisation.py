"""Other normalisation constants, listed or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from holdfast.explain_drift.cause import Leaves, Pair, Tiles, block_means
from holdfast.explain_drift.domain import DOMAINS, Domain

__all__ = ["Normalisation"]


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """``gain v + offset`` per channel, in the grey levels of the training side's normalisation.

    Args:
        gain, offset: per channel.
        constants: the listed normalisation that they amount to, empty for an unlisted one.
    """

    family: ClassVar[str] = "normalisation"
    stage: ClassVar[int] = 9
    leaves: ClassVar[Leaves] = "nothing"
    gain: tuple[float, ...] = (1.0,)
    offset: tuple[float, ...] = (0.0,)
    constants: str = ""
    words: str = ""

    @property
    def name(self) -> str:
        """The constants, where listed."""
        return f"normalised_as_{self.constants}" if self.constants else "channel_gain_and_offset"

    @property
    def detail(self) -> str:
        """The constants, or the fitted numbers."""
        if self.constants:
            return f"vehicle uses {self.words}"
        gain, offset = (", ".join(f"{v:.4g}" for v in values) for values in (self.gain, self.offset))
        return f"per-channel gain {gain} and offset {offset} grey levels"

    @property
    def cost(self) -> float:
        """Six free numbers explain much; listed constants none that they should not."""
        return 0.2 if self.constants else 0.6

    @property
    def hides(self) -> tuple[str, ...]:
        """Free numbers take up smaller changes of the same form."""
        return () if self.constants else ("divisor", "rounding")

    def apply(self, tiles: Tiles) -> Tensor:
        """The affine change."""
        gain, offset = self._columns(tiles.pixels)
        return tiles.pixels * gain + offset

    def undo(self, tiles: Tiles) -> Tensor:
        """Its inverse."""
        gain, offset = self._columns(tiles.pixels)
        return (tiles.pixels - offset) / gain

    def _columns(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        return pixels.new_tensor(self.gain)[:, None, None], pixels.new_tensor(self.offset)[:, None, None]

    @classmethod
    def between(cls, training: Domain, vehicle: Domain, channels: int) -> Normalisation:
        """The change seen in training levels when the vehicle stores in another domain."""
        a_gain, a_offset = training.affine(channels)
        b_gain, b_offset = vehicle.affine(channels)
        gain, offset = b_gain / a_gain, (b_offset - a_offset) / a_gain
        return cls(
            gain=tuple(gain.tolist()), offset=tuple(offset.tolist()), constants=vehicle.name, words=vehicle.detail
        )

    @classmethod
    def propose(cls, pair: Pair) -> list[Normalisation]:
        """The free fit to block means, and the listed constants that lie near it."""
        x, y = (block_means(tiles.pixels).permute(0, 2, 3, 1).flatten(0, 2) for tiles in (pair.before, pair.after))
        gain, offset = _fit(x, y)
        free = cls(gain=tuple(gain.tolist()), offset=tuple(offset.tolist()))
        if float(gain.abs().min()) < 1e-4:
            return []
        training, channels = pair.domain, len(gain)
        listed = [d for d in DOMAINS if d.fits(channels)]
        listed += [d.reversed() for d in listed if len(set(d.mean)) > 1]
        near = [cls.between(training, domain, channels) for domain in listed if domain != training]
        level = x.mean(0)
        fitted = gain * level + offset
        close = [
            c for c in near
            if torch.allclose(torch.tensor(c.gain), gain, rtol=0.25)
            and bool(((torch.tensor(c.gain) * level + torch.tensor(c.offset) - fitted).abs() < 12 * gain.abs()).all())
        ]  # fmt: skip
        return [*close, free]


def _fit(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Least squares of ``y = gain x + offset`` per channel."""
    mean_x, mean_y = x.mean(0), y.mean(0)
    centred = x - mean_x
    gain = (centred * (y - mean_y)).sum(0) / (centred * centred).sum(0).clamp(min=1e-9)
    return gain, mean_y - gain * mean_x
