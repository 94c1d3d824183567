"""A small classification problem with a base model, its fine-tunes and unrelated models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from holdfast.weights.exam import Exam

CLASSES, WIDTH = 5, 10


@dataclass(frozen=True)
class Problem:
    inputs: Tensor
    labels: Tensor

    def correct(self, model: nn.Module, indices: Tensor) -> Tensor:
        return (model(self.inputs[indices]).argmax(1) == self.labels[indices]).float()

    def loss(self, model: nn.Module, indices: Tensor) -> Tensor:
        return nn.functional.cross_entropy(model(self.inputs[indices]), self.labels[indices], reduction="none")


def make_problem(count: int, seed: int, *, turn: float = 0.0) -> Problem:
    """Gaussian clusters; ``turn`` rotates the input space, which shifts the domain."""
    generator = torch.Generator().manual_seed(seed)
    centres = 1.1 * torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(7))
    labels = torch.randint(CLASSES, (count,), generator=generator)
    inputs = centres[labels] + torch.randn(count, WIDTH, generator=generator)
    plane = torch.eye(WIDTH)
    angle = torch.tensor(turn)
    plane[0, 0], plane[0, 1], plane[1, 0], plane[1, 1] = angle.cos(), -angle.sin(), angle.sin(), angle.cos()
    return Problem(inputs @ plane, labels)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(WIDTH, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, CLASSES))


def fit(model: nn.Module, data: Problem, *, lr: float, steps: int, seed: int) -> dict[str, Tensor]:
    optimiser = torch.optim.Adam(model.parameters(), lr=lr)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        indices = torch.randint(len(data.labels), (64,), generator=generator)
        optimiser.zero_grad()
        data.loss(model, indices).mean().backward()
        optimiser.step()
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@dataclass(frozen=True)
class Zoo:
    base: dict[str, Tensor]
    tuned: list[dict[str, Tensor]]
    strangers: list[dict[str, Tensor]]
    held_out: Problem
    upright: Problem
    exam: Callable[..., Exam]


def make_zoo() -> Zoo:
    """Trains everything; takes a few seconds."""
    model = network()
    base = fit(model, make_problem(2000, 1), lr=3e-3, steps=250, seed=0)
    turned = make_problem(600, 2, turn=0.9)
    held_out = make_problem(1500, 3, turn=0.9)
    tuned = []
    for seed in range(6):
        model.load_state_dict(base)
        tuned.append(fit(model, turned, lr=(1 + 0.4 * seed) * 1e-3, steps=60, seed=seed))
    strangers = [fit(network(10 + seed), turned, lr=3e-3, steps=250, seed=seed) for seed in range(2)]

    def exam(data: Problem = held_out, *, loss: bool = False, **options: object) -> Exam:
        measure = data.loss if loss else data.correct
        better = "lower" if loss else "higher"
        return Exam(model=network(), size=len(data.labels), measure=measure, better=better, **options)

    return Zoo(base, tuned, strangers, held_out, make_problem(1500, 4), exam)
