"""One of two gloo ranks: every method under DDP and FSDP2 against one process; rank 0 prints what was found as JSON.

python methods_two_ranks.py RANK MEETING WHAT NAME...

WHAT is ``ddp``, or ``both``: FSDP2 as well. Normalisation is in eval mode, both ranks hold equally many samples, and
partners stay inside a rank: then two ranks are one process with the doubled batch.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from found_methods import objective_of
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map
from toy_tasks import images, model_of

from holdfast.core.contracts import Term
from holdfast.core.errors import HoldfastError
from holdfast.train import draws
from holdfast.train.objective import Objective
from holdfast.train.terms import evaluate

STEPS = 3
Weights = dict[str, Tensor]


def shard(step: int, rank: int) -> dict[str, Any]:
    return images(n=4, seed=10 * step + rank)


def made(name: str, rank: int) -> Objective:
    return objective_of(name, unlabelled=[images(n=4, seed=90 + rank)])


def prepared(objective: Objective) -> nn.Module:
    """The model to train, with normalisation in eval mode."""
    return steady(objective.prepare(model_of(objective.task), images()))


def steady(model: nn.Module) -> nn.Module:
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


def weights_of(model: nn.Module) -> Weights:
    found = {name.removeprefix("module."): p.detach() for name, p in model.named_parameters()}
    return {n: (p.full_tensor() if isinstance(p, dist.tensor.DTensor) else p).clone() for n, p in found.items()}


def trained(model: nn.Module, backward: Callable[[int], object]) -> list[Weights]:
    """The weights after each step."""
    optimiser, found = torch.optim.SGD(model.parameters(), lr=0.05), []
    for step in range(STEPS):
        optimiser.zero_grad()
        backward(step)
        optimiser.step()
        found.append(weights_of(model))
    return found


# --- one process ----------------------------------------------------------------------------------------


def alone(name: str) -> list[Weights]:
    """One process that makes the terms of both ranks, each with its rank's draws, and takes their mean loss."""
    objectives = [made(name, rank) for rank in range(2)]
    model = prepared(objectives[0])
    for objective in objectives:
        objective._prepared = type(model)

    def backward(step: int) -> None:
        terms = []
        for rank, objective in enumerate(objectives):
            with patch("holdfast.train.objective.rank", lambda rank=rank: rank):
                terms.append(objective.terms(model, shard(step, rank)))
        loss_of(objectives, model, terms, step).backward()
        for objective in objectives:
            objective.index += 1

    return trained(model, backward)


def loss_of(objectives: Sequence[Objective], model: nn.Module, terms: Sequence[list[Term]], step: int) -> Tensor:
    task, perturbation = objectives[0].task, objectives[0].perturbation

    def loss_at(terms: Sequence[Term], values: Weights) -> Tensor:
        def forward(view: Any, **call: Any) -> Any:
            return task.forward(lambda *x, **k: functional_call(model, values, x, k), view, **call)

        return evaluate(terms, forward)

    if perturbation is None:
        return evaluate(side_by_side(terms), partial(task.forward, model))
    parameters = dict(model.named_parameters())
    total = torch.zeros(())
    for rank, objective in enumerate(objectives):
        with patch("holdfast.train.objective.rank", lambda rank=rank: rank):
            seen = objective._step(model, shard(step, rank), None, {})
            delta = perturbation.delta(parameters, partial(loss_at, side_by_side(terms)), seen)
        total = total + loss_at(terms[rank], {n: p + delta.get(n, 0.0) for n, p in parameters.items()}) / 2
    return total


def side_by_side(terms: Sequence[list[Term]]) -> list[Term]:
    return [
        replace(term, name=f"{term.name} {rank}", weight=term.weight / 2,
                joins=None if term.joins is None else f"{term.joins} {rank}")
        for rank, own in enumerate(terms) for term in own
    ]  # fmt: skip


def doubled(name: str) -> tuple[list[Weights], bool]:
    """One process with the doubled batch and nothing else, and whether the method drew: then it is another problem."""
    drawn: list[torch.Generator] = []

    def drawing(*key: Any, **options: Any) -> torch.Generator:
        drawn.append(draws.generator(*key, **options))
        return drawn[-1]

    objective = objective_of(name, unlabelled=[both(images(n=4, seed=90), images(n=4, seed=91))])
    model = prepared(objective)
    with patch("holdfast.train.objective.generator", drawing):
        found = trained(model, lambda step: objective.backward(model, both(shard(step, 0), shard(step, 1))))
    return found, any(not torch.equal(g.get_state(), torch.Generator().manual_seed(g.initial_seed()).get_state())
                      for g in drawn)  # fmt: skip


def both(first: Any, second: Any) -> Any:
    return tree_map(lambda a, b: torch.cat([a, b]), first, second)


# --- two ranks ------------------------------------------------------------------------------------------


def under_ddp(name: str, rank: int) -> list[Weights]:
    objective = made(name, rank)
    plain = prepared(objective)
    model = DistributedDataParallel(plain, find_unused_parameters=False)
    return trained(plain, lambda step: objective.backward(model, shard(step, rank)))


def under_fsdp(name: str, rank: int) -> tuple[list[Weights], float]:
    """The weights after each step, and how far a plain forward afterwards is from a plain model's."""
    objective = made(name, rank)
    objective.strategy = None  # chosen in the first step, as always
    model, mesh = prepared(objective), init_device_mesh("cpu", (2,))
    for module in [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]:
        fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    found = trained(model, lambda step: objective.backward(model, shard(step, rank)))
    plain = prepared(made(name, rank))
    with torch.no_grad():
        image = shard(0, rank)["image"]
        outputs, expected = model(image), functional_call(plain, found[-1], (image,))
    return found, float((outputs - expected).abs().max())


def gap(left: Weights, right: Weights) -> float:
    assert left.keys() == right.keys()
    return max(float((left[name] - right[name]).abs().max()) for name in left)


def moved(name: str, found: Sequence[Weights]) -> float:
    """How far the last step moved the weights: a gap of nothing from nothing would prove nothing."""
    return max(float((found[-1][key] - found[-2][key]).abs().max()) for key in found[-1])


def ddp(name: str, rank: int) -> dict[str, Any]:
    found = under_ddp(name, rank)
    whole, drew = doubled_alone(name)
    return {"gap": gap(found[-1], alone(name)[-1]), "moved": moved(name, found), "drew": drew,
            "doubled": gap(found[-1], whole[-1])}  # fmt: skip


def doubled_alone(name: str) -> tuple[list[Weights], bool]:
    """`doubled` while the other rank does the same: weight perturbations talk to one another."""
    with patch("torch.distributed.is_initialized", lambda: False):
        return doubled(name)


def fsdp(name: str, rank: int) -> dict[str, Any]:
    try:
        found, forward = under_fsdp(name, rank)
    except HoldfastError as error:
        return {"refused": str(error)}
    except Exception as error:
        return {"crashed": f"{type(error).__name__}: {error}"}
    expected = under_ddp(name, rank)
    return {"gap": gap(found[-1], expected[-1]), "second": gap(found[1], expected[1]), "moved": moved(name, found),
            "forward": forward}  # fmt: skip


def main() -> None:
    rank, meeting, what, *chosen = sys.argv[1:]
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=int(rank), world_size=2)
    found = {"ddp": {name: ddp(name, int(rank)) for name in chosen}}
    if what == "both":
        found["fsdp"] = {name: fsdp(name, int(rank)) for name in chosen}
    if rank == "0":
        print(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
