"""A small U-Net for dense prediction on a CPU."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

__all__ = ["UNet"]


class UNet(nn.Module):
    """Encoder and decoder with skip connections (Ronneberger et al. 2015, fig. 1), padded and batch-normalised.

    ``forward``: image float (B, inputs, H, W) -> logits float (B, outputs, H, W); H and W must be multiples of
    ``2 ** (len(widths) - 1)``. The default has 122k parameters.

    Args:
        inputs: channels of the image.
        outputs: logits a pixel; 1 for a binary mask.
        widths: channels at each resolution, finest first. Few at the top: that is where the time goes.
    """

    def __init__(self, inputs: int = 3, outputs: int = 1, widths: tuple[int, ...] = (8, 16, 32, 64)) -> None:
        super().__init__()
        ins = (inputs, *widths[:-1])
        self.down = nn.ModuleList(_double(a, b) for a, b in zip(ins, widths, strict=True))
        pairs = list(itertools.pairwise(widths))
        self.up = nn.ModuleList(_double(fine + coarse, fine) for fine, coarse in reversed(pairs))
        self.pool = nn.MaxPool2d(2)
        self.grow = nn.Upsample(scale_factor=2, mode="nearest")
        self.head = nn.Conv2d(widths[0], outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of every pixel."""
        skips: list[Tensor] = []
        for index, block in enumerate(self.down):
            x = block(x if index == 0 else self.pool(x))
            skips.append(x)
        for block, skip in zip(self.up, reversed(skips[:-1]), strict=True):
            x = block(torch.cat([skip, self.grow(x)], dim=1))
        logits: Tensor = self.head(x)
        return logits


def _double(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(*_unit(inputs, outputs), *_unit(outputs, outputs))


def _unit(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
