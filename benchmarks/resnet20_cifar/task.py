"""A third-party ResNet-20 on pictures of CIFAR-10, fed rightly or in one of three wrong ways.

Data: ``cifar10_jpeg/`` in ``HOLDFAST_DATA``. The network is the one of He et al. 2016, section 4.2, with shortcuts that
subsample and pad with zeros (option A), as the weights need it.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from holdfast.core.contracts import Task
from holdfast.core.space import InputSpace, Leaf
from holdfast.data.preprocess import Pipeline, Scale
from holdfast.data.sources import data_root, read_jpegs
from holdfast.tasks.classification import classification

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FILES = {"report": "test_2000.npz", "train": "train_10000.npz"}


class Block(nn.Module):
    """Two 3x3 convolutions around a shortcut without weights."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer)
        self.conv2, self.bn2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False), nn.BatchNorm2d(outer)
        self.stride, self.padding = stride, (outer - inner) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        return (y + functional.pad(shortcut, (0, 0, 0, 0, self.padding, self.padding))).relu()


class ResNet20(nn.Module):
    """Three stages of three blocks, 16 to 64 channels; 269,722 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(*(Block(inner if i == 0 else outer, outer, stride if i == 0 else 1) for i in range(3)))
            for inner, outer, stride in ((16, 16, 1), (16, 32, 2), (32, 64, 2))
        )
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.bn1(self.conv1(x)).relu())))
        return self.linear(x.mean((2, 3)))


class Pictures:
    """The pictures of a split, uint8 (3, 32, 32), with their labels."""

    loaded: ClassVar[dict[str, tuple[Any, Any]]] = {}

    def __init__(self, split: str) -> None:
        if split not in self.loaded:
            self.loaded[split] = read_jpegs(data_root("cifar10_jpeg", FILES[split]))
        self.images, self.labels = self.loaded[split]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"image": torch.from_numpy(self.images[i]), "label": int(self.labels[i])}


class Swap:
    """Red and blue exchanged, as OpenCV reads pictures."""

    name: ClassVar[str] = "order"

    def __call__(self, image: Tensor) -> Tensor:
        return image.flip(1)


RIGHT = (Scale(mean=MEAN, std=STD),)
WAYS = {
    "right": (RIGHT, Leaf(mean=MEAN, std=STD)),
    "bgr": ((Swap(), *RIGHT), Leaf(mean=MEAN, std=STD)),
    "not_normalised": ((Scale(),), Leaf()),
    "levels": ((Scale(factor=1.0),), Leaf(high=255.0, unit=1.0)),
}
"""Steps from the picture to the network, and what the user then declares of the input."""


def resnet20(fed: str = "right", vehicle: str = "") -> Task:
    """The task as somebody wrote it who feeds the network in the way ``fed``; ``vehicle``: what ships is fed so."""
    steps, leaf = WAYS[fed]
    pipelines = {"train": Pipeline(steps=steps)}
    if vehicle:
        pipelines["vehicle"] = Pipeline(steps=WAYS[vehicle][0])
    return classification(
        name=f"resnet20 fed {fed}", build_model=ResNet20, data=Pictures, pipelines=pipelines,
        space=InputSpace({"image": leaf}), fingerprint=f"{fed} {vehicle}",
    )  # fmt: skip
