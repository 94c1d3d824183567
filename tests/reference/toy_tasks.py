"""Small tasks on which every method can be tried: images in dicts, pairs, two leaves, sequences of numbers."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.core.contracts import Metric, Step, Task
from holdfast.core.space import InputSpace, Leaf
from holdfast.train.draws import generator

CLASSES = 3


class ConvNet(nn.Module):
    """Convolution, BatchNorm, dropout, linear; counts the samples it has seen, and those of all instances."""

    total = 0

    def __init__(self, dropout: float = 0.0, classes: int = CLASSES) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Softplus(), nn.MaxPool2d(2))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(6 * 16, classes)
        self.samples = 0

    def forward(self, image: Tensor) -> Tensor:
        hidden = self.features(image)
        self.samples += len(image)
        ConvNet.total += len(image)  # here: a forward may end at a tap before the head
        outputs: Tensor = self.head(self.dropout(hidden.flatten(1)))
        return outputs


class TwoInputNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Linear(3 * 64, 6)
        self.speed = nn.Linear(2, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, image: Tensor, speed: Tensor) -> dict[str, Tensor]:
        return {"steer": self.head(torch.tanh(self.image(image.flatten(1)) + self.speed(speed)))}


class TextNet(nn.Module):
    """Embedding, dropout, mean over the words that count, linear."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 5, padding_idx=0)
        self.dropout = nn.Dropout(dropout)
        self.mix = nn.Linear(5, 5)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        words = torch.tanh(self.mix(self.dropout(self.embedding(tokens)))) * mask[..., None]
        return self.head(words.sum(1) / mask.sum(1, keepdim=True))


def cross_entropy(outputs: Tensor, batch: Any) -> Tensor:
    labels = batch["y"] if isinstance(batch, dict) else batch[1]
    return nn.functional.cross_entropy(outputs, labels, reduction="none")


def divergence(reference: Tensor, other: Tensor, batch: Any) -> Tensor:
    p = reference.log_softmax(dim=1)
    return (p.exp() * (p - other.log_softmax(dim=1))).sum(dim=1)


def classification(**changes: Any) -> Task:
    return Task(**{
        "name": "toy-images",
        "build_model": ConvNet,
        "data": lambda split: [],
        "loss": cross_entropy,
        "metrics": (Metric(name="loss", compute=cross_entropy, unit="nat"),),
        "space": InputSpace({"image": Leaf()}),
        "divergence": divergence,
        "pseudo_label": lambda outputs, batch: {**batch, "y": outputs.argmax(dim=1)},
        **changes,
    })  # fmt: skip


def text(dropout: float = 0.0) -> Task:
    return classification(
        name="toy-text", build_model=lambda: TextNet(dropout), space=InputSpace({}),
        inputs=lambda batch: (batch["tokens"], batch["mask"]),
    )  # fmt: skip


def sentences(n: int = 6, seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 8, (n,), generator=g)
    mask = (torch.arange(8)[None] < lengths[:, None]).float()
    tokens = (torch.randint(1, 20, (n, 8), generator=g) * mask).long()
    return {"tokens": tokens, "mask": mask, "y": torch.randint(0, CLASSES, (n,), generator=g)}


def regression_with_two_inputs() -> Task:
    def squared(outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
        return (outputs["steer"] - batch["steer"]).pow(2).sum(dim=1)

    return Task(
        name="toy-two-inputs", build_model=TwoInputNet, data=lambda split: [], loss=squared,
        metrics=(Metric(name="squared", compute=squared, unit="1"),),
        space=InputSpace({"image": Leaf(), "speed": Leaf(high=40.0, unit=0.5)}),
        inputs=lambda batch: (batch["image"], batch["speed"]),
    )  # fmt: skip


def images(n: int = 6, seed: int = 0) -> dict[str, Any]:
    g = torch.Generator().manual_seed(seed)
    image = torch.rand(n, 3, 8, 8, generator=g)
    variants = {"train": image, **{k: torch.rand(n, 3, 8, 8, generator=g) for k in ("aa_bicubic", "area")}}
    return {"image": image, "y": torch.randint(0, CLASSES, (n,), generator=g), "variants": variants}


def driving(n: int = 6, seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "image": torch.rand(n, 3, 8, 8, generator=g),
        "speed": 40 * torch.rand(n, 2, generator=g),
        "steer": torch.randn(n, 2, generator=g),
    }


def model_of(task: Task, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return task.build_model()


def step_of(task: Task, model: nn.Module, batch: Any, *, unlabelled: Any = None, index: int = 0, seed: int = 0) -> Step:
    """A step as the objective makes it, with a fresh state."""
    return Step(
        task=task, model=model, forward=partial(task.forward, model), batch=batch, unlabelled=unlabelled,
        index=index, state={}, draw=lambda name: generator(seed, index, 0, name),
    )  # fmt: skip
