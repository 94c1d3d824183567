"""The lanes task with a network that is ill-conditioned for fp16: a norm in pieces and absolute pixel coordinates.

It is the network of the lanes task but for two things that are found in real heads. Features are scaled up and divided
by their root mean square, written out in pieces (square, mean, root, division). And the soft-argmax counts absolute
pixels of a 3840 pixel wide camera frame, from which the middle is taken away at the end.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from holdfast.core.contracts import Task
from holdfast.models.lane_net import SHARPNESS, LaneNet
from holdfast.tasks.lanes import lanes

GAIN = 120.0
FRAME_PX = 3840


class PixelLaneNet(nn.Module):
    """A `LaneNet` whose last steps are written as one should not."""

    columns: Tensor

    def __init__(self, net: LaneNet, width_px: int = 160) -> None:
        super().__init__()
        self.net, self.scale = net, FRAME_PX / width_px
        self.register_buffer("columns", (net.centres + width_px / 2) * self.scale)

    def forward(self, image: Tensor) -> Tensor:
        """Columns of the lines, float32 (B, lines, distances), in input pixels right of the image's middle."""
        net = self.net
        mixed = net.features(image) * GAIN
        mixed = mixed / (mixed.pow(2).mean(dim=1, keepdim=True) + 1e-5).sqrt()
        score, offset = net.head(mixed).split(net.lines, dim=1)
        share = (SHARPNESS * (score + net.prior)).softmax(dim=-1)
        absolute: Tensor = (share * (self.columns + SHARPNESS * self.scale * offset)).sum(dim=-1)
        return (absolute - FRAME_PX / 2) / self.scale


def pixel_lanes(frames: int = 1216, test_frames: int = 304) -> Task:
    """The task."""
    task = lanes(frames=frames, test_frames=test_frames)
    return replace(task, name="pixel_lanes", build_model=lambda: PixelLaneNet(task.build_model()))
