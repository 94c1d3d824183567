"""Two recorded arrays brought to one form: planes, height, width; and where the picture stands in its borders."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from holdfast.core.errors import InputError

__all__ = ["Borders", "Recorded", "find_borders", "likeness", "whole_shift"]


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A recorded picture.

    Args:
        planes: (C, H, W) in the dtype in which it was recorded.
        layout: how it was recorded: ``CHW``, ``HWC`` or ``HW``.
        memory: the values in the order in which they were recorded.
    """

    planes: Tensor
    layout: str
    memory: Tensor

    @classmethod
    def of(cls, array: np.ndarray, *, where: str) -> Recorded:
        """A recorded array of one picture.

        Raises:
            InputError: not one picture of one or three channels, or values that are not finite.
        """
        squeezed = np.ascontiguousarray(array[0] if array.ndim == 4 and array.shape[0] == 1 else array)
        if squeezed.dtype.kind not in "uif":
            raise InputError(f"dtype {array.dtype} is no picture", where=where, fix="record integers or floats")
        if squeezed.dtype.kind == "f" and not np.isfinite(squeezed).all():
            raise InputError("holds NaN or infinite values", where=where, fix="record a frame the network accepts")
        tensor = torch.from_numpy(squeezed if squeezed.dtype != np.uint16 else squeezed.astype(np.int32))
        if tensor.ndim == 2:
            return cls(planes=tensor[None], layout="HW", memory=tensor.flatten())
        if tensor.ndim == 3 and tensor.shape[0] in (1, 3) and min(tensor.shape[1:]) > 4:
            return cls(planes=tensor, layout="CHW", memory=tensor.flatten())
        if tensor.ndim == 3 and tensor.shape[2] in (1, 3):
            return cls(planes=tensor.permute(2, 0, 1), layout="HWC", memory=tensor.flatten())
        raise InputError(
            f"shape {array.shape} is not one picture of 1 or 3 channels", where=where,
            fix="give (C, H, W), (H, W, C) or (H, W); for several frames a folder of pairs",
        )  # fmt: skip

    def readings(self) -> dict[str, Tensor]:
        """Other pictures that the same memory may have been meant to be, by what would then be wrong."""
        channels, height, width = self.planes.shape
        if channels == 1:
            return {"rows and columns exchanged": self.planes.mT}
        interleaved = self.memory.view(height, width, channels).permute(2, 0, 1)
        planar = self.memory.view(channels, height, width)
        declared = {"CHW": ("interleaved (HWC) memory declared as planes (CHW)", interleaved),
                    "HWC": ("planes (CHW) in memory declared as interleaved (HWC)", planar)}[self.layout]  # fmt: skip
        return {declared[0]: declared[1], "rows and columns exchanged": self.planes.mT}


@dataclass(frozen=True, kw_only=True)
class Borders:
    """Constant borders around a picture, in px, and their value per channel."""

    top: int
    bottom: int
    left: int
    right: int
    fill: Tensor

    def cut(self, planes: Tensor) -> Tensor:
        """The picture without its borders."""
        return planes[..., self.top : planes.shape[-2] - self.bottom, self.left : planes.shape[-1] - self.right]


def find_borders(planes: Tensor, *, thinnest_px: int = 4) -> Borders | None:
    """Borders of one constant colour on any side; thinner ones do not count. None where there are none."""
    for fill in (planes[:, 0, 0], planes[:, -1, -1]):
        differs = (planes != fill[:, None, None]).any(0)
        rows, columns = differs.any(1).nonzero().flatten(), differs.any(0).nonzero().flatten()
        if len(rows) == 0:
            return None
        thick = [
            int(rows[0]),
            planes.shape[1] - 1 - int(rows[-1]),
            int(columns[0]),
            planes.shape[2] - 1 - int(columns[-1]),
        ]
        top, bottom, left, right = (edge if edge >= thinnest_px else 0 for edge in thick)
        if top or bottom or left or right:
            return Borders(top=top, bottom=bottom, left=left, right=right, fill=fill)
    return None


def likeness(a: Tensor, b: Tensor) -> float:
    """Correlation of the middles of two pictures (C, H, W) in coarse blocks of their luma; 0 where one is flat."""
    height, width = a.shape[-2:]
    side = max(1, min(height, width) // 24)
    middles = [p[:, height // 5 : height - height // 5, width // 8 : width - width // 8] for p in (a, b)]
    coarse = torch.stack([functional.avg_pool2d(p.float().mean(0)[None], side).flatten() for p in middles])
    return float(torch.nan_to_num(torch.corrcoef(coarse)[0, 1]))


def whole_shift(before: Tensor, after: Tensor, *, reach_px: int) -> tuple[int, int]:
    """Whole pixels (down, right) of the displacement between two pictures (C, H, W), by phase correlation.

    ``after[y, x]`` looks like ``before[y + down, x + right]``; a start for a finer fit.
    """
    height, width = before.shape[-2:]
    window = torch.hann_window(height)[:, None] * torch.hann_window(width)
    spectra = []
    for planes in (before, after):
        luma = functional.avg_pool2d(planes.float().mean(0)[None], 3, 1, 1)[0]
        spectra.append(torch.fft.rfft2((luma - luma.mean()) * window))
    cross = spectra[0] * spectra[1].conj()
    surface = torch.fft.irfft2(cross / cross.abs().clamp(min=1e-6), s=(height, width))
    down, right = min(reach_px, height // 4), min(reach_px, width // 4)
    near = torch.roll(surface, (down, right), (0, 1))[: 2 * down + 1, : 2 * right + 1]
    peak = int(near.argmax())
    return peak // (2 * right + 1) - down, peak % (2 * right + 1) - right
