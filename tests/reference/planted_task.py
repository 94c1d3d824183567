"""Colour and direction of coarse stripes on a finely striped background: a task into which faults can be planted.

Fine stripes vanish when the picture is shrunk with antialiasing and turn into false coarse ones without it.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from holdfast.core.contracts import Metric, Task
from holdfast.core.contracts import Pipeline as AnyPipeline
from holdfast.core.space import InputSpace, Leaf
from holdfast.data.preprocess import ImageStep, Pipeline, Resize, Scale

SENSOR, NET, CLASSES = 60, 24, 4
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = {"train": 480, "val": 32, "report": 96, "calibration": 32}


class Stripes:
    """Pictures uint8 (3, 60, 60), and which of reddish/bluish x across/along they show."""

    def __init__(self, split: str) -> None:
        draw = torch.Generator().manual_seed(sorted(SIZES).index(split))
        n = SIZES[split]
        self.label = torch.randint(0, CLASSES, (n,), generator=draw)
        place = torch.arange(SENSOR) / SENSOR
        phase = torch.rand(n, 2, generator=draw) * 6.2832
        coarse = torch.sin(4 * 6.2832 * place + phase[:, :1])
        # On every 2.5th pixel 28 periods look like 4: without antialiasing fine stripes become coarse ones.
        fine = torch.sin(28 * 6.2832 * place + phase[:, 1:])
        along = (self.label % 2 == 1).view(n, 1, 1)
        rows, columns = coarse[:, :, None].expand(n, SENSOR, SENSOR), coarse[:, None, :].expand(n, SENSOR, SENSOR)
        crossing = torch.where(along, fine[:, :, None].expand_as(rows), fine[:, None, :].expand_as(rows))
        grey = 110 + 28 * torch.where(along, columns, rows) + 60 * crossing
        tint = torch.tensor([[34.0, 0.0, -34.0], [-34.0, 0.0, 34.0]])[self.label // 2]
        noise = 8 * torch.randn(n, 3, SENSOR, SENSOR, generator=draw)
        self.image = (grey[:, None] + tint[:, :, None, None] + noise).clamp(0, 255).byte()

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"image": self.image[i], "y": self.label[i], "drive": i // 4}


class Net(nn.Module):
    """Two convolutions with BatchNorm, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 5, stride=2, padding=2)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 12, 5, stride=2, padding=2)
        self.head = nn.Linear(12 * 9, CLASSES)
        self.most = 0

    def forward(self, image: Tensor) -> Tensor:
        if self.most and len(image) > self.most:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        x = self.second(self.norm(self.first(image)).relu()).relu()
        return self.head(nn.functional.adaptive_avg_pool2d(x, 3).flatten(1))


@dataclass(frozen=True, kw_only=True)
class Swap:
    """Red and blue exchanged."""

    name: ClassVar[str] = "order"

    def __call__(self, image: Tensor) -> Tensor:
        return image.flip(1)


RESIZE, SCALE = Resize(size=(NET, NET)), Scale(mean=MEAN, std=STD)
POINTS = Resize(size=(NET, NET), kernel="bilinear", antialias=False)


def pipeline(*steps: ImageStep) -> AnyPipeline:
    return Pipeline(steps=steps)


PIPELINES = {
    "right": pipeline(RESIZE, SCALE), "order": pipeline(RESIZE, Swap(), SCALE), "raw": pipeline(RESIZE, Scale()),
    "resize": pipeline(POINTS, SCALE),
}  # fmt: skip


def correct(outputs: Tensor, batch: dict[str, Any]) -> Tensor:
    return (outputs.argmax(1) == batch["y"]).double()


def loss(outputs: Tensor, batch: dict[str, Any]) -> Tensor:
    return nn.functional.cross_entropy(outputs, batch["y"], reduction="none")


def deadly(outputs: Tensor, batch: dict[str, Any]) -> Tensor:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def broken(outputs: Tensor, batch: dict[str, Any]) -> Tensor:
    raise ZeroDivisionError("the loss of this task has a fault")


def make(train: str = "right", vehicle: str = "", poison: str = "", most: int = 0) -> Task:
    """The task; ``vehicle`` names the pipeline that ships, ``poison`` what the loss does, ``most`` the memory."""

    def data(split: str) -> Stripes:
        if split not in SIZES:
            raise KeyError(split)
        return Stripes(split)

    def build() -> Net:
        net = Net()
        net.most = most
        return net

    pipelines = {"train": PIPELINES[train]} | ({"vehicle": PIPELINES[vehicle]} if vehicle else {})
    return Task(
        name="stripes", build_model=build, data=data, loss={"": loss, "kill": deadly, "raise": broken}[poison],
        metrics=(Metric(name="accuracy", compute=correct, unit="1", better="higher"),),
        space=InputSpace({"image": Leaf(mean=MEAN, std=STD)}), pipelines=pipelines,
        group=lambda batch: batch["drive"].tolist(), failed=lambda outputs, batch: correct(outputs, batch) == 0,
    )  # fmt: skip
