"""Handwritten digits, a small net, and random noise of two kinds beside the clean digits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import ClassVar

import torch
from torch import Tensor

from holdfast.core.contracts import Task
from holdfast.core.space import InputSpace, Leaf
from holdfast.data.preprocess import Pipeline, Scale
from holdfast.data.samples import Samples
from holdfast.data.sources import data_root, read_idx
from holdfast.models.small_cnn import SmallCNN
from holdfast.tasks.classification import classification

SPLITS = {
    "train": ("train", 0, 12800),
    "val": ("train", 56000, 57000),
    "select": ("train", 57000, 59000),
    "report": ("t10k", 0, 10000),
}
"""File, first digit, end."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Grey levels plus noise: normal of deviation ``size`` (0..1), or ``size`` up or down by the toss of a coin.

    The draw hangs on the digits themselves, so that everybody who asks sees the same.
    """

    size: float
    coin: bool = False
    name: ClassVar[str] = "noise"

    def __call__(self, image: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(int(image.double().sum()))
        draws = torch.randn(image.shape, generator=generator)
        return (image + 255 * self.size * (draws.sign() if self.coin else draws)).clamp(0, 255)


def mnist() -> Task:
    """The task; budgets of attacks are counted in the full range 0..1."""
    return classification(
        name="mnist",
        build_model=partial(SmallCNN, widths=(16, 32), hidden=100, norm=False),
        data=lambda split: _digits(*SPLITS[split]),
        space=InputSpace({"image": Leaf(unit=1.0)}),
        pipelines={
            "train": Pipeline(steps=(Scale(),)),
            "normal_noise": Pipeline(steps=(Noise(size=0.3), Scale())),
            "coin_noise": Pipeline(steps=(Noise(size=0.3, coin=True), Scale())),
        },
    )


@cache
def _digits(file: str, first: int, end: int) -> Samples:
    images = read_idx(data_root("mnist", f"{file}-images-idx3-ubyte.gz"))[first:end]
    labels = read_idx(data_root("mnist", f"{file}-labels-idx1-ubyte.gz"))[first:end]
    return Samples(image=images[:, None].copy(), label=labels.astype("int64"))
