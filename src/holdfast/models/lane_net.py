"""A row-anchor lane network: small, exportable, and able to resolve a line to a fraction of a pixel."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["LaneNet"]

STRIDE = 4
SHARPNESS = 4.0
PRIOR_PX = 6.0
MARGIN_PX = 16


class LaneNet(nn.Module):
    """Finds where lane lines cross a number of fixed rows.

    A convolutional trunk at a quarter of the resolution, a learned pooling of its rows into one row per distance,
    and for every line and distance a soft-argmax over the columns, each with an offset of its own:

        x = sum_j softmax_j(k (score + prior)) * (centre_j + k offset_j)

    Rows start where the camera sees each distance, and the prior where a line is in the middle of a lane: both are
    learned further, but without them the first epochs go into finding the road. ``k`` 4 lets scores sharpen within
    a few hundred steps. Positions count from the middle of the image: small numbers keep their digits in fp16.

    Args:
        rows_px: row of the input at which each distance is seen, (distances,).
        expected_px: column of each line in an ordinary scene, right of the middle, (lines, distances).
        width: channels; 26 gives about 42 thousand parameters, 52 about 160 thousand.
        size: (height, width) of the input, multiples of four. Its top third, the sky, and what lies more than
            ``MARGIN_PX`` below the nearest distance are not looked at: half of the work, and nothing to be learned.
    """

    centres: Tensor

    def __init__(
        self, *, rows_px: Sequence[float], expected_px: Sequence[Sequence[float]], width: int = 26,
        size: tuple[int, int] = (96, 160),
    ) -> None:  # fmt: skip
        super().__init__()
        self.top = size[0] // 3 // STRIDE * STRIDE
        self.bottom = min(size[0], math.ceil((max(rows_px) + MARGIN_PX) / STRIDE) * STRIDE)
        self.lines = len(expected_px)
        self.trunk = nn.Sequential(
            _conv(3, width // 2, stride=2),
            _conv(width // 2, width, stride=2),
            _conv(width, width),
            _conv(width, width, dilation=(2, 2)),
        )
        self.rows = _pooling(rows_px, (self.bottom - self.top) // STRIDE, self.top)
        self.mix = nn.Sequential(*(_conv(width, width, dilation=(min(d, 2), d)) for d in (1, 2, 4, 8)))
        self.head = nn.Conv2d(width, 2 * self.lines, 1)
        self.register_buffer("centres", (torch.arange(size[1] // STRIDE) + 0.5) * STRIDE - size[1] / 2)
        distance = (self.centres - torch.tensor(expected_px)[..., None]) / PRIOR_PX
        self.prior = nn.Parameter(-0.5 * distance**2 / SHARPNESS)
        # A training step takes a quarter less time on a CPU in this layout; nothing else notices.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stub

    def forward(self, image: Tensor) -> Tensor:
        """Columns of the lines, float32 (B, lines, distances), in input pixels right of the image's middle.

        Args:
            image: float32 (B, 3, height, width) in 0..1.
        """
        score, offset = self.head(self.features(image)).split(self.lines, dim=1)
        share = (SHARPNESS * (score + self.prior)).softmax(dim=-1)
        positions: Tensor = (share * (self.centres + SHARPNESS * offset)).sum(dim=-1)
        return positions

    def features(self, image: Tensor) -> Tensor:
        """What the head sees, float32 (B, width, distances, columns), from an image as in `forward`."""
        seen = self.trunk(image[:, :, self.top : self.bottom] - 0.5)
        mixed: Tensor = self.mix(self.rows(seen.transpose(2, 3)).transpose(2, 3))
        return mixed


def _pooling(rows_px: Sequence[float], rows: int, top: int) -> nn.Linear:
    """A linear map of feature rows to distances that begins as interpolation at the row of each distance."""
    pooling = nn.Linear(rows, len(rows_px), bias=False)
    centres = (torch.arange(rows) + 0.5) * STRIDE + top
    near = (1 - (centres - torch.tensor(rows_px)[:, None]).abs() / (1.5 * STRIDE)).clamp(min=0)
    with torch.no_grad():
        pooling.weight.copy_(near / near.sum(dim=1, keepdim=True))
    return pooling


def _conv(inputs: int, outputs: int, *, stride: int = 1, dilation: tuple[int, int] = (1, 1)) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=dilation, dilation=dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )
