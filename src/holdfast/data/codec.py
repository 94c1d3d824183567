"""What a lossy codec between camera and network leaves of an image; bytes by way of Pillow."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

__all__ = ["JPEG", "picture_by_picture", "plane_by_plane"]

SUBSAMPLING = {"444": 0, "422": 1, "420": 2}


@dataclass(frozen=True, kw_only=True)
class JPEG:
    """Encode as a JPEG file and decode again, by Pillow.

    Three channels are a colour image; with any other number each channel is a grey one.

    Args:
        quality: 1 to 95, as libjpeg counts it.
        chroma: resolution of chroma; ``420`` halves both directions.
    """

    name: ClassVar[str] = "codec"
    quality: int = 75
    chroma: Literal["444", "422", "420"] = "420"

    def __call__(self, image: Tensor) -> Tensor:
        """Whole grey levels 0..255 as float32, on the device of ``image``."""
        return self.of_bytes(image.round().clamp(0, 255).to(torch.uint8)).float()

    def of_bytes(self, image: Tensor) -> Tensor:
        """The same of images uint8 (B, C, H, W)."""
        height, width = image.shape[-2:]
        canvas = Image.new("RGB" if image.shape[1] == 3 else "L", (width, height))
        return picture_by_picture(image, lambda picture: self._coded(picture, canvas))

    def _coded(self, image: Image.Image, canvas: Image.Image) -> Image.Image:
        """``canvas``, one for all images of a batch, with the decoded one on it."""
        file = io.BytesIO()
        image.save(file, "JPEG", quality=self.quality, subsampling=SUBSAMPLING[self.chroma])
        # Straight to libjpeg: opening the file would first read its headers in Python.
        canvas.frombytes(file.getvalue(), "jpeg", canvas.mode, "")
        return canvas


def _grey(plane: np.ndarray) -> Image.Image:
    """A plane of bytes (H, W) as an image on the same memory; `Image.fromarray` first looks what it was given."""
    return Image.frombuffer("L", plane.shape[::-1], np.ascontiguousarray(plane), "raw", "L", 0, 1)


def picture_by_picture(image: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    """Each image uint8 (B, C, H, W) changed by Pillow, all to one size; if C is not 3, each channel as a grey one."""
    if image.shape[1] != 3:
        return plane_by_plane(image, change)
    bands: list[bytes] = []
    for planes in image.cpu().numpy():
        changed = change(Image.merge("RGB", [_grey(plane) for plane in planes]))
        bands += [changed.tobytes("raw", band) for band in "RGB"]
    found = torch.frombuffer(bytearray().join(bands), dtype=torch.uint8)
    return found.view(*image.shape[:2], changed.height, changed.width).to(image.device)


def plane_by_plane(image: Tensor, change: Callable[[Image.Image], Image.Image | np.ndarray]) -> Tensor:
    """Each channel of each image uint8 (B, C, H, W) changed by Pillow as a grey image of its own, all to one size."""
    planes = [np.asarray(change(_grey(plane))) for plane in image.cpu().flatten(0, 1).numpy()]
    found = torch.from_numpy(np.stack(planes))
    return found.view(*image.shape[:2], *found.shape[1:]).to(image.device)
