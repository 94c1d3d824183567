"""Handwritten digits and a fully connected net of three hidden layers of 256, each drawn anew."""

from __future__ import annotations

from functools import cache

from torch import nn

from holdfast.core.contracts import Task
from holdfast.core.space import InputSpace, Leaf
from holdfast.data.preprocess import Pipeline, Scale
from holdfast.data.samples import Samples
from holdfast.data.sources import data_root, read_idx
from holdfast.tasks.classification import classification

SPLITS = {"train": ("train", 0, 5000), "report": ("t10k", 0, 2000)}
"""File, first digit, end."""


def fcn() -> nn.Module:
    """784-256-256-256-10 with ReLU."""
    layers: list[nn.Module] = [nn.Flatten()]
    for a in (784, 256, 256):
        layers += [nn.Linear(a, 256), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(256, 10))


def mnist() -> Task:
    """The task; budgets of attacks are counted in the full range 0..1."""
    return classification(
        name="mnist_fcn",
        build_model=fcn,
        data=lambda split: _digits(*SPLITS[split]),
        space=InputSpace({"image": Leaf(unit=1.0)}),
        pipelines={"train": Pipeline(steps=(Scale(),))},
    )


@cache
def _digits(file: str, first: int, end: int) -> Samples:
    images = read_idx(data_root("mnist", f"{file}-images-idx3-ubyte.gz"))[first:end]
    labels = read_idx(data_root("mnist", f"{file}-labels-idx1-ubyte.gz"))[first:end]
    return Samples(image=images[:, None].copy(), label=labels.astype("int64"))
