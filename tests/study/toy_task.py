"""A task that trains in a second: how bright is the left half of an 8x8 frame? Frames come in recordings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from holdfast.core.contracts import Drift, Metric, Task
from holdfast.core.space import InputSpace, Leaf

SIZES = {"train": 96, "val": 16, "select": 24, "report": 24, "select_sequence": 20, "report_sequence": 20,
         "unlabelled": 32}  # fmt: skip


class Frames:
    def __init__(self, split: str, poison: str) -> None:
        self.n, self.poison = SIZES[split], poison
        g = torch.Generator().manual_seed(sorted(SIZES).index(split))
        self.images = torch.randint(0, 256, (self.n, 1, 8, 8), generator=g, dtype=torch.uint8)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> dict[str, Any]:
        image = self.images[i]
        y = image[:, :, :4].float().mean() / 255
        return {"image": image, "y": y / 0 if self.poison == "labels" else y, "recording": i // 4}


def build_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 1)
    )


def scaled(batch: dict[str, Any]) -> dict[str, Any]:
    return {**batch, "image": batch["image"].float() / 255}


def coarse(batch: dict[str, Any]) -> dict[str, Any]:
    return {**batch, "image": (batch["image"] // 64).float() * 64 / 255}


def error(outputs: Tensor, batch: dict[str, Any]) -> Tensor:
    return (outputs[:, 0] - batch["y"]).abs()


def jitter(outputs: Tensor, batch: dict[str, Any]) -> Tensor:
    return (outputs[:, 0] - batch["y"]).diff().std()


def make(poison: str = "") -> Task:
    def data(split: str) -> Frames:
        if split not in SIZES:
            raise KeyError(split)
        return Frames(split, poison)

    return Task(
        name="toy",
        build_model=build_net,
        data=data,
        loss=lambda outputs, batch: (outputs[:, 0] - batch["y"]) ** 2,
        metrics=(
            Metric(name="error", compute=error, unit="1"),
            Metric(name="jitter", compute=jitter, unit="1", over="sequence"),
        ),
        drifts=(Drift(name="shift", compute=lambda a, b, batch: (a - b)[:, 0].abs(), unit="1"),),
        space=InputSpace({"image": Leaf()}),
        pipelines={"train": scaled, "coarse": coarse},
        group=lambda batch: batch["recording"].tolist(),
        failed=lambda outputs, batch: error(outputs, batch) > 0.1,
        traces=lambda outputs, batch: {"level": outputs[:, 0], "truth": batch["y"]},
    )
