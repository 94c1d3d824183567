"""A row-anchor lane network: small, exportable, and able to resolve a line to a fraction of a pixel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["LaneNet"]

STRIDE = 4


class LaneNet(nn.Module):
    """Finds where two lane lines cross a number of fixed rows.

    A convolutional trunk at a quarter of the resolution, a learned pooling of its rows into one row per distance,
    and for every line and distance a soft-argmax over the columns, each with an offset of its own:

        x = sum_j softmax_j(score) * (centre_j + offset_j)

    Positions count from the middle of the image, where distant lines are: small numbers keep their digits in fp16.

    Args:
        distances: rows to predict.
        width: channels; 24 gives about 45 thousand parameters, 48 about 170 thousand.
        size: (height, width) of the input, multiples of four. Its top third is the sky and is not looked at.
        lines: lines to predict.
    """

    def __init__(
        self, *, distances: int = 12, width: int = 24, size: tuple[int, int] = (96, 160), lines: int = 2
    ) -> None:
        super().__init__()
        self.top = size[0] // 3 // STRIDE * STRIDE
        rows, columns = (size[0] - self.top) // STRIDE, size[1] // STRIDE
        self.trunk = nn.Sequential(
            _conv(3, width // 2, stride=2),
            _conv(width // 2, width, stride=2),
            _conv(width, width),
            _conv(width, width, dilation=2),
            _conv(width, width, dilation=4),
        )
        self.rows = nn.Linear(rows, distances, bias=False)
        self.mix = nn.Sequential(_conv(width, width), _conv(width, width, dilation=4))
        self.head = nn.Conv2d(width, 2 * lines, 1)
        self.lines = lines
        self.register_buffer("centres", (torch.arange(columns) + 0.5) * STRIDE - size[1] / 2)

    def forward(self, image: Tensor) -> Tensor:
        """Columns of the lines, float32 (B, lines, distances), in input pixels right of the image's middle.

        Args:
            image: float32 (B, 3, height, width) in 0..1.
        """
        features = self.trunk(image[:, :, self.top :] - 0.5)
        anchors = self.rows(features.transpose(2, 3)).transpose(2, 3)
        score, offset = self.head(self.mix(anchors)).split(self.lines, dim=1)
        return (score.softmax(dim=-1) * (self.centres + offset)).sum(dim=-1)


def _conv(inputs: int, outputs: int, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=dilation, dilation=dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )
