"""Small images and a small BatchNorm network for the studies of averages, and their accuracy in fp32 and in int8."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from holdfast.data.sources import data_root, read_idx, read_jpegs
from holdfast.deploy.subjects import open_subject
from holdfast.models.small_cnn import SmallCNN
from holdfast.weights.tree import State

__all__ = ["Images", "accuracy", "int8_accuracy", "load", "mean_loss", "network", "shuffled"]

CALIBRATION = 128


@dataclass(frozen=True)
class Images:
    """``x`` float (N, C, H, W), zero mean; ``y`` int64 (N,)."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def first(self, count: int) -> Images:
        """The first ones."""
        return Images(self.x[:count], self.y[:count])

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All of them in order."""
        yield from zip(self.x.split(size), self.y.split(size), strict=True)


@cache
def load(name: str) -> dict[str, Images]:
    """``fashion`` (12 000 / 3 000 / 10 000) or ``cifar`` (9 000 / 1 000 / 2 000, JPEG-degraded): train, val, report."""
    if name == "fashion":
        raw = [
            tuple(read_idx(data_root("fashion_mnist", f"{part}-{kind}.gz"))
                  for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"))
            for part in ("train", "t10k")
        ]  # fmt: skip
        (x, y), report = [(images[:, None], labels.astype(np.int64)) for images, labels in raw]
        order, held_out = np.arange(len(y)), 3000
    else:
        x, y = read_jpegs(data_root("cifar10_jpeg", "train_10000.npz"))
        report = read_jpegs(data_root("cifar10_jpeg", "test_2000.npz"))
        order, held_out = np.random.default_rng(0).permutation(len(y)), 1000
    kept, val = order[:-held_out], order[-held_out:]
    mean, deviation = float(x[kept].mean()), float(x[kept].std())
    parts = {"train": (x[kept], y[kept]), "val": (x[val], y[val]), "report": report}
    return {
        part: Images((torch.from_numpy(np.ascontiguousarray(a)).float() - mean) / deviation, torch.from_numpy(b))
        for part, (a, b) in parts.items()
    }


def network(name: str) -> SmallCNN:
    """Strided convolutions with BatchNorm: 0.16 M parameters for ``fashion``, 0.09 M for ``cifar``."""
    if name == "fashion":
        return SmallCNN(widths=(16, 32))
    return SmallCNN(inputs=3, size=(32, 32), widths=(12, 24, 48))


def shuffled(data: Images, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch, each image flipped by chance and moved by up to two pixels."""
    side = data.x.shape[-1]
    for indices in torch.randperm(len(data), generator=generator).split(size):
        x = data.x[indices]
        flip = torch.rand(len(x), generator=generator) < 0.5
        x = torch.where(flip[:, None, None, None], x.flip(3), x)
        top, left = torch.randint(5, (2,), generator=generator).tolist()
        yield pad(x, (2, 2, 2, 2), mode="replicate")[..., top : top + side, left : left + side], data.y[indices]


def accuracy(run: Callable[[Tensor], Tensor], data: Images) -> Tensor:
    """Whether each image is told rightly, float (N,)."""
    with torch.no_grad():
        return torch.cat([(run(x).argmax(1) == y).float() for x, y in data.batches(500)])


def mean_loss(model: nn.Module, data: Images) -> float:
    """Mean cross-entropy."""
    with torch.no_grad():
        return float(torch.cat([cross_entropy(model(x), y, reduction="none") for x, y in data.batches(500)]).mean())


def int8_accuracy(name: str, state: State, data: dict[str, Images]) -> tuple[Tensor, str]:
    """`accuracy` of the weights quantised by ONNX Runtime to int8, and the precision that executed."""
    model = network(name)
    model.load_state_dict(dict(state))
    calibration = [(x,) for x, _ in data["train"].first(CALIBRATION).batches(32)]
    with TemporaryDirectory() as folder:
        subject = open_subject("onnxruntime:int8", model.eval(), (data["train"].x[:2],), calibration, Path(folder))
        try:
            return accuracy(subject.run, data["report"]), subject.executed
        finally:
            subject.close()
