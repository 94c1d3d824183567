"""A small classifier in double precision with labels it gets right, for attacks that know about classes."""

from __future__ import annotations

import torch
from torch import nn

from holdfast.attacks.aim import Aim

CLASSES = 5


def classifier(seed: int = 0, channels: int = 2, size: int = 5, linear: bool = False) -> nn.Module:
    torch.manual_seed(seed)
    inputs = channels * size * size
    layers = [nn.Linear(inputs, CLASSES)] if linear else [nn.Linear(inputs, 16), nn.Tanh(), nn.Linear(16, CLASSES)]
    net = nn.Sequential(nn.Flatten(), *layers).double()
    with torch.no_grad():
        net[1].weight.mul_(4.0)  # so that not all samples get the same class
    return net


def samples(net: nn.Module, n: int = 8, channels: int = 2, size: int = 5, seed: int = 0):
    """Images in the middle of the range, with the labels that the classifier gives them."""
    x = 0.25 + 0.5 * torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(seed)).double()
    return x, net(x).argmax(1)


def aim_of(net: nn.Module, y: torch.Tensor, *, leave: bool = True, only: int | None = None) -> Aim:
    """The cross-entropy of a classifier; ``only``: the one sample that may be broken, so that the others stay."""

    def failed(logits, batch):
        wrong = logits.argmax(1) != batch["y"]
        return wrong if only is None else wrong & (batch["row"] == only)

    return Aim(
        forward=lambda z, batch: net(z),
        batch={"y": y, "row": torch.arange(len(y))},
        error=lambda logits, batch: nn.functional.cross_entropy(logits, batch["y"], reduction="none"),
        failed=failed if leave else None,
        labels=y,
    )
