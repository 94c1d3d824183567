"""Frost on the window: a texture of ice over the image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from holdfast.core.errors import InputError
from holdfast.data.colour import grey
from holdfast.data.corruptions.draws import Draws
from holdfast.data.corruptions.plasma import plasma
from holdfast.data.corruptions.published import Table
from holdfast.data.resize import Resize

__all__ = ["Frost"]


@dataclass(frozen=True, kw_only=True)
class Frost:
    """Lay a random piece of an ice texture over the image: ``x' = a x + b t``.

    The published textures are photographs that are not part of holdfast. Give the folder that holds yours (of
    ImageNet-C: ``frost1.png`` to ``frost5.jpg``; the first five by name are used, as published). Without one, ice is
    drawn from plasma fractals: that is another corruption, it is named ``frost (procedural)`` and left out of mCE.

    Args:
        table: published parameters, see `holdfast.data.corruptions.published.Table`.
        textures: folder of images.

    Raises:
        InputError: the folder holds no image.

    Source: Hendrycks and Dietterich, ICLR 2019.
    """

    family: ClassVar[str] = "weather"
    moves_pixels: ClassVar[bool] = False
    severities: ClassVar[tuple[int, ...]] = (1, 2, 3, 4, 5)
    table: Table = "imagenet"

    SHARES: ClassVar[Mapping[Table, tuple[tuple[float, float], ...]]] = {
        "imagenet": ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
        "cifar": ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    }
    SCALE: ClassVar[Mapping[Table, float]] = {"imagenet": 1.0, "cifar": 0.2}

    textures: str = ""

    @property
    def variant(self) -> str:
        """What the frost is made of, where it is not the published one."""
        return "" if self.textures else "procedural"

    def corrupt(self, image: Tensor, severity: int, draws: Draws) -> Tensor:
        """The frosted images; see `holdfast.core.contracts.Corruption`."""
        share, cover = self.SHARES[self.table][severity - 1]
        ice = self._pieces(image, draws) if self.textures else _drawn(image, draws)
        return share * image + cover * ice

    def _pieces(self, image: Tensor, draws: Draws) -> Tensor:
        """A random piece of a random texture for each sample."""
        (height, width), scale = image.shape[-2:], self.SCALE[self.table]
        found = [_enlarged(t, (height + 1, width + 1)) for t in _textures(self.textures, scale)]
        choice = draws.integers(0, len(found))
        top, left = (draws.uniform(0, 1) for _ in range(2))
        pieces = []
        for which, y, x in zip(choice.tolist(), top.tolist(), left.tolist(), strict=True):
            row, column = (
                int(u * (n - m)) for u, n, m in zip((y, x), found[which].shape[1:], (height, width), strict=True)
            )
            pieces.append(found[which][:, row : row + height, column : column + width])
        ice = torch.stack(pieces).to(image)
        return ice if image.shape[1] == 3 else grey(ice).expand_as(image)


def _drawn(image: Tensor, draws: Draws) -> Tensor:
    """Ice of crystals (the ridges of a rough fractal) on a haze (a smooth one), bluish where there are colours."""
    height, width = image.shape[-2:]
    rough, smooth = (plasma(max(height, width), decay, draws)[:, None, :height, :width] for decay in (1.4, 2.0))
    ridges = (1 - (2 * rough - 1).abs()) ** 4
    ice = (255 * (0.55 * ridges + 0.45 * smooth)).to(image)
    if image.shape[1] != 3:
        return ice.expand_as(image)
    return ice * torch.tensor([0.86, 0.94, 1.0]).to(image).view(3, 1, 1)


@lru_cache(maxsize=4)
def _textures(folder: str, scale: float) -> tuple[Tensor, ...]:
    """The first five images of a folder by name, float32 (3, H, W), grey levels."""
    paths = sorted(p for p in Path(folder).glob("*") if p.suffix.lower() in {".png", ".jpg", ".jpeg"})[:5]
    if not paths:
        raise InputError(
            "holds no .png or .jpg", where=f"frost textures {folder!r}", fix="name the folder of the textures"
        )
    found = []
    for path in paths:
        with Image.open(path) as opened:
            texture = torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1).float()
        size = (round(texture.shape[1] * scale), round(texture.shape[2] * scale))
        found.append(texture if scale == 1 else Resize(size=size, antialias=False)(texture[None])[0])
    return tuple(found)


def _enlarged(texture: Tensor, least: tuple[int, int]) -> Tensor:
    """The texture, enlarged where it is smaller than the image."""
    factor = max(1.0, *(m / n for n, m in zip(texture.shape[1:], least, strict=True)))
    if factor == 1:
        return texture
    size = (math.ceil(texture.shape[1] * factor), math.ceil(texture.shape[2] * factor))
    return Resize(size=size, antialias=False)(texture[None])[0]
