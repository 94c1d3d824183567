"""Colour as cameras transmit it: 8-bit YCbCr with chroma at half resolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from holdfast.core.errors import InputError

__all__ = ["NV12"]

LUMA_WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}
"""Weights of red and blue in luma (ITU-R BT.601 and BT.709); green has the rest."""


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
