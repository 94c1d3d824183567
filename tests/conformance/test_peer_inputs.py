"""The ten inputs on which torchattacks 3.5.1, Foolbox 3.3.4 or ART 1.20.1 raise, and the one that is moved too far.

Each peer was run on each of its inputs and raised. Here every one of them is attacked, and trained on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from holdfast.attacks.pgd import PGD
from holdfast.core.contracts import Task
from holdfast.core.errors import InputError
from holdfast.core.space import InputSpace, Leaf
from holdfast.methods.adversarial import Adversarial
from holdfast.train.objective import Objective

N, EPS = 4, 8.0


@dataclass
class Case:
    """A model's outputs, their loss, and a batch; ``eps`` in units of 1/255."""

    batch: Any
    loss: Callable[[Any, Any], Tensor]
    outputs: Callable[[Tensor], Any] = lambda values: values
    leaf: str = "0"
    eps: Any = EPS


class Net(nn.Module):
    def __init__(self, outputs: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.Softplus(), nn.Linear(8, 3))
        self.outputs = outputs

    def forward(self, image: Tensor) -> Any:
        return self.outputs(self.body(image))


def image() -> Tensor:
    return torch.rand(N, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def classes() -> Tensor:
    return torch.arange(N) % 3


def values(*shape: int) -> Tensor:
    return torch.randn(N, *shape, generator=torch.Generator().manual_seed(1))


def cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, labels, reduction="none")


PAIR = (image(), classes())
INPUTS = {
    "torchattacks, dict in": Case(
        {"image": image(), "y": classes()}, lambda o, b: cross_entropy(o, b["y"]), leaf="image"
    ),
    "torchattacks, dict out": Case(PAIR, lambda o, b: cross_entropy(o["logits"], b[1]), lambda v: {"logits": v}),
    "torchattacks, tuple out": Case(PAIR, lambda o, b: cross_entropy(o[0], b[1]), lambda v: (v, v.sum(1))),
    "torchattacks, float targets": Case((image(), values()), lambda o, b: (o[:, 0] - b[1]).square()),
    "torchattacks, tensor eps": Case(PAIR, lambda o, b: cross_entropy(o, b[1]), eps=torch.tensor([0.0, 2.0, 4.0, 8.0])),
    "Foolbox, dict in": Case(
        {"frame": {"front": image()}, "y": classes()}, lambda o, b: cross_entropy(o, b["y"]), leaf="frame.front"
    ),
    "Foolbox, regression": Case((image(), values()), lambda o, b: (o[:, 0] - b[1]).abs()),
    "ART, dict in": Case({"x": image(), "target": values()}, lambda o, b: (o[:, 0] - b["target"]).square(), leaf="x"),
    "ART, torch tensors": Case(PAIR, lambda o, b: cross_entropy(o, b[1])),
    "ART, three outputs": Case((image(), values(3)), lambda o, b: (o - b[1]).square().sum(1)),
}


def task_of(case: Case, leaf: Leaf | None = None) -> Task:
    return Task(
        name="peers", build_model=lambda: Net(case.outputs), data=lambda split: [], loss=case.loss, metrics=(),
        space=InputSpace({case.leaf: leaf or Leaf()}),
        inputs=lambda batch: (task_of(case).space.values(batch)[case.leaf],),
    )  # fmt: skip


def objective_of(task: Task, eps: Any) -> Objective:
    return Objective(task, [Adversarial(attack=PGD(eps=eps, steps=3), clean_weight=0.0)])


@pytest.mark.parametrize("name", INPUTS)
def test_what_a_peer_refuses_is_attacked_within_the_budget_and_trained_on(name: str) -> None:
    case = INPUTS[name]
    task = task_of(case)
    torch.manual_seed(0)
    objective, model = objective_of(task, case.eps), task.build_model()
    [term] = objective.terms(model, case.batch)
    clean, moved = (task.space.values(view)[case.leaf] for view in (case.batch, term.views[0]))
    budget = torch.as_tensor(case.eps).expand(N) / 255
    assert ((moved - clean).abs().amax((1, 2, 3)) <= budget + 1e-6).all()
    assert moved.min() >= 0
    assert moved.max() <= 1
    before, after = (case.loss(task.forward(model, view), view) for view in (case.batch, term.views[0]))
    assert (after >= before).all()
    assert after.sum() > before.sum() + 1e-3
    objective(model, case.batch).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_normalised_input_is_refused_or_declared_and_never_clamped() -> None:
    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    case = Case(((image() - 0.5) / 0.25, classes()), lambda o, b: cross_entropy(o, b[1]))
    with pytest.raises(InputError, match="range"):
        objective_of(task_of(case), EPS)(Net(case.outputs), case.batch)
    task = task_of(case, Leaf(mean=mean, std=std))
    [term] = objective_of(task, EPS).terms(Net(case.outputs), case.batch)
    assert (term.views[0][0] - case.batch[0]).abs().max() <= EPS / 255 / 0.25 + 1e-5
