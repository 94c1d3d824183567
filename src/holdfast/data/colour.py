"""Colour as cameras transmit it: 8-bit YCbCr, its matrices and ranges, chroma at half resolution; channel order."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from holdfast.core.errors import InputError

__all__ = ["NV12", "SwapChannels", "YCbCr", "grey", "raised", "subsampled_chroma", "upsampled_chroma", "ycbcr_matrix"]

LUMA_WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}
"""Weights of red and blue in luma (ITU-R BT.601 and BT.709); green has the rest."""
Coding: TypeAlias = Literal["bt601 limited", "bt601 full", "bt709 limited", "bt709 full"]


@dataclass(frozen=True, kw_only=True)
class NV12:
    """Round trip RGB -> 8-bit YCbCr with chroma at half resolution (4:2:0) -> RGB, as on a camera link.

    ``Y = Kr R + Kg G + Kb B``, ``Cb = (B - Y) / (2 - 2 Kb)``, ``Cr = (R - Y) / (2 - 2 Kr)``, each scaled to its
    range and rounded to a byte; chroma is averaged over blocks of two by two and brought back by ``upsampling``.

    Args:
        matrix: luma weights.
        range: ``limited`` puts luma in 16..235 and chroma in 16..240, ``full`` uses 0..255.
        upsampling: ``nearest`` repeats chroma, ``bilinear`` interpolates between the centres of the blocks.

    Raises:
        InputError: height or width is odd.
    """

    name: ClassVar[str] = "colour"
    matrix: Literal["bt601", "bt709"] = "bt601"
    range: Literal["limited", "full"] = "limited"
    upsampling: Literal["nearest", "bilinear"] = "nearest"

    def __call__(self, image: Tensor) -> Tensor:
        """Whole grey levels 0..255 as float32."""
        if image.shape[-1] % 2 or image.shape[-2] % 2:
            raise InputError(
                f"4:2:0 needs an even height and width, not {tuple(image.shape[-2:])}",
                where="step NV12",
                fix="crop the image first",
            )
        kr, kb = LUMA_WEIGHTS[self.matrix]
        kg = 1 - kr - kb
        luma_gain, chroma_gain, black = (219 / 255, 224 / 255, 16) if self.range == "limited" else (1.0, 1.0, 0)
        encode = image.new_tensor(
            [
                [kr, kg, kb],
                [-kr / (2 - 2 * kb), -kg / (2 - 2 * kb), 0.5],
                [0.5, -kg / (2 - 2 * kr), -kb / (2 - 2 * kr)],
            ]
        )
        luma = _mix(encode[:1] * luma_gain, image).add_(black).round_().clamp_(0, 255)
        chroma = _mix(encode[1:] * chroma_gain, _halved(image)).add_(128).round_().clamp_(0, 255)
        chroma = functional.interpolate(
            chroma,
            scale_factor=2.0,
            mode=self.upsampling,
            align_corners=None if self.upsampling == "nearest" else False,
        )
        blue, red = (2 - 2 * kb) / chroma_gain, (2 - 2 * kr) / chroma_gain
        decode = image.new_tensor(
            [[1 / luma_gain, 0.0, red], [1 / luma_gain, -blue * kb / kg, -red * kr / kg], [1 / luma_gain, blue, 0.0]]
        )
        coded = torch.cat((luma.sub_(black), chroma.sub_(128)), dim=1)
        return _mix(decode, coded).round_().clamp_(0, 255)


def _halved(image: Tensor) -> Tensor:
    """Means of blocks of two by two; sums of strided views take a sixth of the time of pooling on a CPU."""
    rows = image[..., ::2, :] + image[..., 1::2, :]
    return (rows[..., ::2] + rows[..., 1::2]).mul_(0.25)


def _mix(matrix: Tensor, image: Tensor) -> Tensor:
    """Apply a matrix (out, in) along the channels of an image (B, in, H, W)."""
    return (matrix @ image.flatten(2)).view(len(image), len(matrix), *image.shape[-2:])


def grey(image: Tensor) -> Tensor:
    """Luma ``0.299 R + 0.587 G + 0.114 B`` (B, 1, H, W); the mean where there are not three channels."""
    if image.shape[1] != 3:
        return image.mean(1, keepdim=True)
    return (image * image.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)


def raised(image: Tensor, by: float) -> Tensor:
    """Images float (B, C, H, W) with an HSV value higher by so many grey levels, within 0..255.

    With hue and saturation fixed, colours are proportional to their value, the largest channel; black becomes grey.
    """
    value = functools.reduce(torch.maximum, (image[:, k : k + 1] for k in range(image.shape[1])))
    target = (value + by).clamp_(0, 255)
    black = value == 0
    found = image * (target / value.masked_fill(black, 1.0))
    return torch.where(black, target, found) if bool(black.any()) else found


@dataclass(frozen=True, kw_only=True)
class SwapChannels:
    """RGB read as BGR, or the other way round: the channels in reverse order."""

    name: ClassVar[str] = "channels"

    def __call__(self, image: Tensor) -> Tensor:
        """The same values in other channels."""
        return image.flip(1)


@dataclass(frozen=True, kw_only=True)
class YCbCr:
    """Round trip RGB -> 8-bit YCbCr -> RGB in which decoder and encoder need not agree.

    An image without three channels stays, as does a last odd row or column's share of chroma.

    Args:
        encoded: matrix and range of the encoder, e.g. ``"bt601 limited"``.
        decoded: what the decoder takes them for.
        down: how chroma is halved: ``keep`` leaves it at full resolution, ``box`` averages 2x2, ``left`` weighs
            1 2 1 across around every other column, ``drop`` keeps every other sample.
        up: how it is brought back: repeated, or interpolated from samples at block centres or at the left.
    """

    name: ClassVar[str] = "colour"
    encoded: Coding = "bt601 limited"
    decoded: Coding = "bt601 limited"
    down: Literal["keep", "box", "left", "drop"] = "keep"
    up: Literal["nearest", "centred", "left"] = "centred"

    def __call__(self, image: Tensor) -> Tensor:
        """Whole grey levels 0..255 as float32."""
        if image.shape[1] != 3:
            return image
        encode, black = _coding(self.encoded)
        coded = _mix(encode.to(image), image) + image.new_tensor([black, 128, 128]).view(3, 1, 1)
        height, width = image.shape[-2:]
        if self.down != "keep":
            chroma = upsampled_chroma(subsampled_chroma(coded[:, 1:], self.down).round(), self.up)[..., :height, :width]
            coded = torch.cat((coded[:, :1], chroma), dim=1)
        coded = coded.round().clamp(0, 255)
        encode, black = _coding(self.decoded)
        coded = coded - image.new_tensor([black, 128, 128]).view(3, 1, 1)
        return _mix(torch.linalg.inv(encode).to(image), coded).round().clamp(0, 255)


def _coding(name: str) -> tuple[Tensor, float]:
    matrix, _, span = name.partition(" ")
    return ycbcr_matrix(matrix, span)


def ycbcr_matrix(matrix: str, span: str) -> tuple[Tensor, float]:
    """Matrix float64 (3, 3) from RGB to YCbCr, without offsets, and the grey level of black.

    Args:
        matrix: ``bt601`` or ``bt709``.
        span: ``limited`` puts luma in 16..235 and chroma in 16..240, ``full`` uses 0..255.
    """
    luma, chroma, black = (219 / 255, 224 / 255, 16.0) if span == "limited" else (1.0, 1.0, 0.0)
    kr, kb = LUMA_WEIGHTS[matrix]
    weights = torch.tensor([kr, 1 - kr - kb, kb], dtype=torch.float64)
    blue = (torch.tensor([0.0, 0.0, 1.0]) - weights) / (2 - 2 * kb)
    red = (torch.tensor([1.0, 0.0, 0.0]) - weights) / (2 - 2 * kr)
    return torch.stack((weights * luma, blue * chroma, red * chroma)), black


def subsampled_chroma(chroma: Tensor, down: str) -> Tensor:
    """Chroma at half resolution, float (B, 2, H, W) -> (B, 2, ceil(H/2), ceil(W/2)).

    Args:
        chroma: Cb and Cr; an odd edge is repeated.
        down: ``box`` means of two by two, ``drop`` the first of each four, ``left`` means of two rows, weighted 1 2 1
            around the left column (MPEG-2 siting).
    """
    chroma = functional.pad(chroma, (0, chroma.shape[-1] % 2, 0, chroma.shape[-2] % 2), mode="replicate")
    if down == "drop":
        return chroma[..., ::2, ::2]
    if down == "box":
        return _halved(chroma)
    rows = functional.pad((chroma[..., ::2, :] + chroma[..., 1::2, :]) / 2, (1, 1, 0, 0), mode="replicate")
    return (rows[..., :-2:2] + 2 * rows[..., 1:-1:2] + rows[..., 2::2]) / 4


def upsampled_chroma(chroma: Tensor, up: str) -> Tensor:
    """Chroma at full resolution, float (B, 2, h, w) -> (B, 2, 2h, 2w): the inverse of `subsampled_chroma` in size.

    Args:
        chroma: Cb and Cr.
        up: ``nearest`` repeats, ``centred`` interpolates between the centres of blocks, ``left`` between left sites.
    """
    if up == "nearest":
        return functional.interpolate(chroma, scale_factor=2.0, mode="nearest")
    if up == "centred":
        return functional.interpolate(chroma, scale_factor=2.0, mode="bilinear", align_corners=False)
    rows = functional.interpolate(chroma, scale_factor=(2.0, 1.0), mode="bilinear", align_corners=False)
    right = functional.pad(rows, (0, 1, 0, 0), mode="replicate")[..., 1:]
    return torch.stack((rows, (rows + right) / 2), dim=-1).flatten(-2)
