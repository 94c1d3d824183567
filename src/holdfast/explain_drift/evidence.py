"""How well a prediction explains what the vehicle recorded: errors in four bands, judged on a logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from holdfast.explain_drift.cause import BLOCK, Leaves, Tiles, block_means

__all__ = ["Evidence"]

FLOORS = ((0.15, 0.05), (0.2, 0.05))
"""Error in grey levels that two rounded pictures have anyway: luma and colour, at full resolution and in blocks."""
TONE_FLOOR = 0.05
LUMA_AND_COLOUR = torch.tensor([[1 / 3, 1 / 3, 1 / 3], [1 / 2, 0.0, -1 / 2], [1 / 4, -1 / 2, 1 / 4]])
STRATA = 6
TONES = 8


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The observed pixels with all that does not depend on a hypothesis.

    The error of a prediction is split into luma and colour differences, each as it is and in means over blocks.
    A colour matrix hides below the edges at full resolution and stands alone in the block means; chroma errors
    stand in the colour differences alone. The score is the sum over bands of ``log(mean |error| + floor)``: the
    negative log-likelihood per sample of Laplace errors of unknown size in every band.

    Args:
        observed: the vehicle's pixels.
        gain: per channel, size of a training grey level in the observed values.
        strata: stratum (K, h', w') of every inner pixel by local detail of the observed luma.
        share: share (S,) of the pixels in each stratum.
        tones: tone (C, n), by observed level, of every block.
        margin: pixels at the border of each piece that are not judged.
    """

    observed: Tiles
    gain: Tensor
    strata: Tensor
    share: Tensor
    tones: Tensor
    margin: int

    @classmethod
    def of(cls, before: Tiles, observed: Tiles, margin: int) -> Evidence:
        """Evidence against predictions made from ``before``."""
        spread = [tiles.pixels.transpose(0, 1).flatten(1).std(1) for tiles in (before, observed)]
        gain = (spread[1] / spread[0].clamp(min=1e-3)).clamp(min=1e-6)
        luma = (observed.pixels / gain[:, None, None]).mean(1, keepdim=True)
        detail = functional.avg_pool2d((luma - _blur(luma)).abs(), 3, 1, 1)
        inner = _inner(detail, margin)[:, 0]
        sample = inner.flatten()[:: max(1, inner.numel() // 20000)]
        edges = torch.quantile(sample, torch.linspace(0, 1, STRATA + 1)[1:-1])
        strata = torch.bucketize(inner.contiguous(), edges)
        share = torch.bincount(strata.flatten(), minlength=STRATA) / strata.numel()
        level = block_means(_inner(observed.pixels, margin)).transpose(0, 1).flatten(1)
        steps = torch.quantile(level, torch.linspace(0, 1, TONES + 1)[1:-1], dim=1)
        tones = torch.stack([torch.bucketize(row.contiguous(), edge) for row, edge in zip(level, steps.T, strict=True)])
        return cls(observed=observed, gain=gain, strata=strata, share=share, tones=tones, margin=margin)

    @property
    def floor(self) -> float:
        """The score of a prediction without any error."""
        bands = FLOORS if self.observed.pixels.shape[1] == 3 else FLOORS[:1]
        return math.log(TONE_FLOOR) + sum(math.log(fine) + math.log(coarse) for fine, coarse in bands)

    def error(self, predicted: Tensor) -> Tensor:
        """Observed minus predicted in training grey levels, without the margin."""
        inner = _inner(self.observed.pixels, self.margin) - _inner(predicted, self.margin)
        return inner.div_(self.gain[:, None, None])

    def score(self, predicted: Tensor, leaves: Set[Leaves]) -> float:
        """Sum of log errors over bands; lower is better, by one for a factor e in one band.

        Where ``leaves`` holds ``"detail"``, the error of luma at full resolution may follow the local detail, as
        aliasing does: it is judged in each stratum of detail by itself. Where it holds ``"rounding"``, half a grey
        level is forgiven at full resolution.
        """
        error = self.error(predicted)
        blocks = block_means(error)
        total = math.log(float(self._by_tone(blocks).abs().mean()) + TONE_FLOOR)
        for fine, coarse, floors in zip(_bands(error), _bands(blocks), FLOORS, strict=False):
            total += math.log(float(coarse.abs().mean()) + floors[1])
            size = fine.abs()
            if "rounding" in leaves:
                size = (size - 0.5).clamp_(min=0)
            if "detail" in leaves and fine.shape[1] == 1:
                total += float((self.share * torch.log(self._by_stratum(size) + floors[0])).sum())
            else:
                total += math.log(float(size.mean()) + floors[0])
        return total

    def agreement(self, predicted: Tensor) -> float:
        """Correlation of observed and predicted detail, luma without its means over blocks; 0 where one is flat."""
        pair = torch.stack([_detail(_inner(pixels, self.margin)) for pixels in (self.observed.pixels, predicted)])
        return float(torch.nan_to_num(torch.corrcoef(pair)[0, 1]))

    def _by_tone(self, blocks: Tensor) -> Tensor:
        """Mean error (C, T) of the blocks of each tone: what differs for all pixels of a level, edges or not."""
        empty = torch.zeros(blocks.shape[1], TONES)
        sums = empty.scatter_add(1, self.tones, blocks.transpose(0, 1).flatten(1))
        return sums / empty.scatter_add(1, self.tones, torch.ones(self.tones.shape)).clamp(min=1)

    def _by_stratum(self, size: Tensor) -> Tensor:
        sums = torch.zeros(STRATA).scatter_add(0, self.strata.flatten(), size.flatten())
        return sums / (self.share * size.numel()).clamp(min=1)


def _bands(error: Tensor) -> list[Tensor]:
    """Luma, and for three channels the two colour differences."""
    if error.shape[1] != 3:
        return [error.mean(1, keepdim=True)]
    mixed = (LUMA_AND_COLOUR @ error.flatten(2)).view_as(error)
    return [mixed[:, :1], mixed[:, 1:]]


def _detail(pixels: Tensor) -> Tensor:
    luma = pixels.mean(1)
    blocks = block_means(luma).repeat_interleave(BLOCK, -2).repeat_interleave(BLOCK, -1)
    return (
        luma[..., : blocks.shape[-2], : blocks.shape[-1]] - blocks[..., : luma.shape[-2], : luma.shape[-1]]
    ).flatten()


def _inner(pixels: Tensor, margin: int) -> Tensor:
    return pixels[..., margin : pixels.shape[-2] - margin, margin : pixels.shape[-1] - margin]


def _blur(luma: Tensor) -> Tensor:
    return functional.avg_pool2d(functional.pad(luma, (1, 1, 1, 1), mode="replicate"), 3, 1)
