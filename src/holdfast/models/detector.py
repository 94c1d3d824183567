"""A small anchor-free detector: a heat map of object centres, and a size and an offset at each cell."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["STRIDE", "Detector"]

STRIDE = 4
RARE = -2.2
"""Start of the heat's bias: one cell in ten holds an object, rather than every second one."""


class Detector(nn.Module):
    """Convolutions to a quarter of the resolution and three heads (Zhou et al. 2019, "Objects as points").

    ``forward``: image float (B, 3, H, W) -> a dict of ``heat``, logits (B, classes, H/4, W/4); ``size``, width and
    height (B, 2, H/4, W/4); ``offset`` of the centre from the cell's middle (B, 2, H/4, W/4); both in input pixels.

    Args:
        classes: kinds of objects.
        width: channels. Default 32: about 50 thousand parameters.
    """

    def __init__(self, classes: int = 3, width: int = 32) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            _conv(3, width // 2, stride=2), _conv(width // 2, width, stride=2),
            *(_conv(width, width, dilation=d) for d in (1, 2, 4, 1)),
        )  # fmt: skip
        self.heat = nn.Conv2d(width, classes, 1)
        self.size = nn.Conv2d(width, 2, 1)
        self.offset = nn.Conv2d(width, 2, 1)
        nn.init.constant_(self.heat.bias, RARE)  # type: ignore[arg-type]  # it has a bias

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Heat, size and offset of every cell."""
        x = self.trunk(image)
        return {"heat": self.heat(x), "size": STRIDE * torch.exp(self.size(x).clamp(max=5.0)), "offset": self.offset(x)}


def _conv(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=dilation, dilation=dilation, bias=False),
        nn.BatchNorm2d(outputs), nn.ReLU(),
    )  # fmt: skip
