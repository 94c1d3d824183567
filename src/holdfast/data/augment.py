"""Seeded changes of camera frames for training copies: light, colour, height of the horizon and sensor noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["CameraJitter"]


@dataclass(frozen=True, kw_only=True)
class CameraJitter:
    """Changes a sensor frame: ``round(clip(g c_k x + b + n))`` after a vertical shift with repeated edge rows.

    Args:
        gain: log-uniform brightness factor g in ``1/(1+gain) .. 1+gain``. Recommended 0.3 to 0.6.
        colour: uniform factor ``c_k`` a channel, ``1 +- colour``. Recommended 0.1.
        bias: uniform offset b, in units of 255. Recommended 10.
        noise: largest standard deviation of Gaussian noise n, in units of 255. Recommended 4.
        rows_px: largest vertical shift, in sensor rows; keep 0 where the target holds positions.
        leaf: name of the image, uint8 (3, H, W).
    """

    gain: float = 0.4
    colour: float = 0.1
    bias: float = 10.0
    noise: float = 4.0
    rows_px: int = 0
    leaf: str = "image"

    def __call__(self, sample: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The changed sample; see `holdfast.data.samples.Change`."""
        frame = sample[self.leaf]
        draw = 2 * torch.rand(6, generator=generator) - 1
        shift = round(float(draw[0]) * self.rows_px)
        rows = (torch.arange(frame.shape[-2]) + shift).clamp(0, frame.shape[-2] - 1)
        factor = (1 + self.gain) ** draw[1] * (1 + self.colour * draw[2:5]).view(3, 1, 1)
        level = float(torch.rand((), generator=generator)) * self.noise
        noise = level * torch.randn(frame.shape, generator=generator)
        changed = frame[:, rows, :].float() * factor + self.bias * draw[5] + noise
        return {**sample, self.leaf: changed.round().clamp(0, 255).to(torch.uint8)}
