"""A third-party CIFAR-10 network (ResNet-20 with option-A shortcuts) as a task, so that it can be verified.

Its input is normalised by ImageNet's mean and deviation, inside the model here, so that pipelines end in 0..1.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from holdfast.core.contracts import Task
from holdfast.data.preprocess import Pipeline, Scale
from holdfast.data.samples import Samples
from holdfast.data.sources import data_root, read_jpegs
from holdfast.tasks.classification import classification

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SPLITS = {"train": ("train_10000.npz", 0, 9000), "calibration": ("train_10000.npz", 9000, 9256),
          "val": ("train_10000.npz", 9256, 10000), "report": ("test_2000.npz", 0, 2000)}  # fmt: skip


class Block(nn.Module):
    """Two convolutions beside a shortcut without weights: every second pixel, channels filled up with zeros."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.stride, self.more = stride, (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        if self.more:
            x = pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more, self.more))
        return (out + x).relu()


class ResNet20(nn.Module):
    """He et al. 2016, section 4.2, with n = 3; names of the weights as in the third party's file."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(*(Block(i if n == 0 else o, o, s if n == 0 else 1) for n in range(3)))
            for i, o, s in ((16, 16, 1), (16, 32, 2), (32, 64, 2))
        )
        self.linear = nn.Linear(64, 10)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Logits float32 (B, 10) of images float32 (B, 3, 32, 32) in 0..1."""
        x = self.bn1(self.conv1((image - self.mean) / self.std)).relu()
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean(dim=(2, 3)))


def cifar10() -> Task:
    """The task."""
    return classification(
        name="cifar10", build_model=ResNet20, data=_data, pipelines={"train": Pipeline(steps=(Scale(),))}
    )


@cache
def _data(split: str) -> Samples:
    file, first, end = SPLITS[split]
    images, labels = read_jpegs(data_root("cifar10_jpeg", file))
    return Samples(image=images[first:end], label=labels[first:end])
