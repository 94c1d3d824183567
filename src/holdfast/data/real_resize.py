"""The resizers of OpenCV and Pillow themselves, as steps of a pipeline: what is compared when they are installed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from holdfast.core.errors import InputError
from holdfast.data.codec import plane_by_plane
from holdfast.data.resize import Resize

__all__ = ["OpenCVResize", "PillowResize", "installed_resizers"]


@dataclass(frozen=True, kw_only=True)
class PillowResize:
    """Pillow's resize of bytes: the kernel grows with the scale when shrinking (antialiasing).

    Args:
        size: (height, width) of the result.
        kernel: Pillow's name of it, in small letters.
    """

    name: ClassVar[str] = "resize"
    size: tuple[int, int] = (96, 160)
    kernel: Literal["nearest", "box", "bilinear", "bicubic", "lanczos"] = "bilinear"

    def __call__(self, image: Tensor) -> Tensor:
        """Whole grey levels 0..255 as float32."""
        kernel = Image.Resampling[self.kernel.upper()]
        size = self.size[::-1]
        levels = image.round().clamp(0, 255).to(torch.uint8)
        return plane_by_plane(levels, lambda plane: plane.resize(size, kernel)).float()


@dataclass(frozen=True, kw_only=True)
class OpenCVResize:
    """OpenCV's resize of bytes: without antialiasing, but for ``area``.

    Args:
        size: (height, width) of the result.
        kernel: OpenCV's name of it after ``INTER_``, in small letters.

    Raises:
        InputError: OpenCV is not installed.
    """

    name: ClassVar[str] = "resize"
    size: tuple[int, int] = (96, 160)
    kernel: Literal["nearest", "linear", "area", "cubic", "lanczos4"] = "linear"

    def __call__(self, image: Tensor) -> Tensor:
        """Whole grey levels 0..255 as float32."""
        if find_spec("cv2") is None:
            raise InputError(
                "OpenCV is not installed", where="step OpenCVResize", fix="pip install 'holdfast[mismatch]'"
            )
        import cv2

        kernel, size = getattr(cv2, f"INTER_{self.kernel.upper()}"), self.size[::-1]
        levels = image.round().clamp(0, 255).to("cpu", torch.uint8).flatten(0, 1).numpy()
        planes = torch.from_numpy(np.stack([cv2.resize(plane, size, interpolation=kernel) for plane in levels]))
        return planes.view(*image.shape[:2], *planes.shape[1:]).to(image.device, torch.float32)


def installed_resizers(size: tuple[int, int]) -> Mapping[str, PillowResize | OpenCVResize | Resize]:
    """Real resizers by name, those of OpenCV where it is installed.

    Args:
        size: (height, width) of the result.
    """
    found: dict[str, PillowResize | OpenCVResize | Resize] = {
        "Pillow bilinear": PillowResize(size=size),
        "Pillow bicubic": PillowResize(size=size, kernel="bicubic"),
        "torch bilinear antialias": Resize(size=size),
        "torch bilinear": Resize(size=size, antialias=False),
    }
    if find_spec("cv2") is not None:
        found["OpenCV linear"] = OpenCVResize(size=size)
        found["OpenCV area"] = OpenCVResize(size=size, kernel="area")
        found["OpenCV nearest"] = OpenCVResize(size=size, kernel="nearest")
    return found
