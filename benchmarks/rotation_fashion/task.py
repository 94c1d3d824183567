"""Clothes in grey, a small net with batch norm: does telling how an image was turned make it robust?"""

from __future__ import annotations

from functools import cache, partial

from holdfast.core.contracts import Task
from holdfast.data.samples import Samples
from holdfast.data.sources import data_root, read_idx
from holdfast.models.small_cnn import SmallCNN
from holdfast.tasks.classification import classification

SPLITS = {
    "train": ("train", 0, 6000),
    "val": ("train", 6000, 7000),
    "select": ("train", 7000, 9000),
    "report": ("t10k", 0, 10000),
}
"""File, first image, end."""


def fashion() -> Task:
    """The task; budgets of attacks are counted in grey levels."""
    return classification(
        name="fashion",
        build_model=partial(SmallCNN, widths=(16, 32), hidden=100),
        data=lambda split: _clothes(*SPLITS[split]),
    )


@cache
def _clothes(file: str, first: int, end: int) -> Samples:
    images = read_idx(data_root("fashion_mnist", f"{file}-images-idx3-ubyte.gz"))[first:end]
    labels = read_idx(data_root("fashion_mnist", f"{file}-labels-idx1-ubyte.gz"))[first:end]
    return Samples(image=images[:, None].copy(), label=labels.astype("int64"))
