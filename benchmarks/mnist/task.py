"""Handwritten digits and a small net: what adversarial training buys, and whether a stronger attack agrees."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

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
    "select": ("train", 57000, 60000),
    "report": ("t10k", 0, 10000),
    "calibration": ("train", 0, 256),
}
"""File, first digit, end."""


@dataclass(frozen=True, kw_only=True)
class HalfPixel:
    """The scanner's grid lies half a pixel further right and down: each pixel becomes the mean of four."""

    name: ClassVar[str] = "resize"

    def __call__(self, image: Tensor) -> Tensor:
        return avg_pool2d(pad(image, (0, 1, 0, 1)), 2, stride=1)


def mnist(train_digits: int = 12800) -> Task:
    """The task on the first ``train_digits`` training digits; budgets of attacks are counted in the full range 0..1."""

    def data(split: str) -> Samples:
        file, first, end = SPLITS[split]
        return _digits(file, first, min(end, train_digits) if split == "train" else end)

    return classification(
        name="mnist",
        build_model=partial(SmallCNN, widths=(16, 32), hidden=100, norm=False),
        data=data,
        space=InputSpace({"image": Leaf(unit=1.0)}),
        pipelines={"train": Pipeline(steps=(Scale(),)), "half_pixel": Pipeline(steps=(HalfPixel(), Scale()))},
    )


@cache
def _digits(file: str, first: int, end: int) -> Samples:
    images = read_idx(data_root("mnist", f"{file}-images-idx3-ubyte.gz"))[first:end]
    labels = read_idx(data_root("mnist", f"{file}-labels-idx1-ubyte.gz"))[first:end]
    return Samples(image=images[:, None].copy(), label=labels.astype("int64"))
