"""SWA after training, by the recipe published for detectors, against the same extra epochs without averaging.

Base training, one cosine to zero; the checkpoint best on ``val`` is kept. From it, with a fresh optimiser:

- `cycles`: 12 epochs, each one cosine cycle from the full rate to a hundredth; the 12 ends are averaged;
- `more`: 12 epochs, one cosine from the full rate to zero, nothing averaged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from benchmarks.tally import Tally
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils._pytree import tree_map

from holdfast.core.contracts import Batch, Outputs, Task
from holdfast.data.table import Table, sensor_batch
from holdfast.weights.batchnorm import settle_statistics
from holdfast.weights.schedule import CyclicSchedule
from holdfast.weights.swa import SWA
from holdfast.weights.trial import copy_state, with_weights

__all__ = ["Recipe", "one_seed"]

EXTRA = 12
State = dict[str, Tensor]
SetMetric = Callable[[Outputs, Batch], float]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A task and how it is trained.

    Args:
        task: the task; its first metric picks the best checkpoint.
        set_metrics: metrics of a whole split by name, higher is better.
        epochs, batch, lr, weight_decay: of the base training with AdamW; the rate is that of the cycles, too.
        pipelines: to report under.
    """

    task: Task
    set_metrics: Mapping[str, SetMetric]
    epochs: int = 20
    batch: int = 16
    lr: float = 3e-3
    weight_decay: float = 1e-4
    pipelines: tuple[str, ...] = ("train", "vehicle")


def one_seed(recipe: Recipe, seed: int, tally: Tally) -> None:
    """Train, restart, average and report under one seed."""
    tables = _tables(recipe)
    torch.manual_seed(seed)
    model = recipe.task.build_model()
    best, at = _base(recipe, model, tables, seed)
    print(f"  best on val after epoch {at} of {recipe.epochs}", flush=True)
    states = {"base/last": best}
    cycle = CyclicSchedule(cycle_steps=len(tables["train"]) // recipe.batch, final=0.01)
    steps = EXTRA * cycle.cycle_steps
    schedules = {"cycles": cycle, "more": lambda step: 0.5 * (1 + math.cos(math.pi * step / steps))}
    for name, schedule in schedules.items():
        model.load_state_dict(best)
        swa = SWA(every_steps=cycle.cycle_steps).start(model)
        optimiser = _optimiser(recipe, model)
        driver = LambdaLR(optimiser, schedule)
        for epoch in range(EXTRA):
            _epoch(recipe, model, tables["train"], optimiser, driver, swa, _generator(seed, 100 + epoch))
        states[f"{name}/last"] = copy_state(model)
        if name == "cycles":
            states |= _settled(recipe, model, swa.weights(), states["cycles/last"], tables)
    _report(recipe, model, states, tables, seed, tally)
    tally.keep()


def _generator(seed: int, epoch: int) -> torch.Generator:
    """The same order of samples for all arms."""
    return torch.Generator().manual_seed(1000 * seed + epoch)


def _tables(recipe: Recipe) -> dict[str, Table]:
    found = {}
    for split in ("train", "val", "report"):
        data = recipe.task.data(split)
        for pipeline in recipe.pipelines if split == "report" else ("train",):
            parts = [recipe.task.pipelines[pipeline](sensor_batch(data, range(k, min(k + 64, len(data)))))
                     for k in range(0, len(data), 64)]  # fmt: skip
            found[f"{split}/{pipeline}" if split == "report" else split] = Table(
                tree_map(lambda *pieces: torch.cat(pieces), *parts)
            )
    return found


def _optimiser(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)


def _base(recipe: Recipe, model: nn.Module, tables: Mapping[str, Table], seed: int) -> tuple[State, int]:
    """The checkpoint with the best first metric on ``val``, looked at after each epoch of the second half."""
    optimiser = _optimiser(recipe, model)
    steps = recipe.epochs * (len(tables["train"]) // recipe.batch)
    driver = LambdaLR(optimiser, lambda step: 0.5 * (1 + math.cos(math.pi * step / steps)))
    found: list[tuple[float, int, State]] = []
    for epoch in range(1, recipe.epochs + 1):
        _epoch(recipe, model, tables["train"], optimiser, driver, None, _generator(seed, epoch))
        if 2 * epoch > recipe.epochs:
            found.append((_score(recipe, model, tables["val"]), epoch, copy_state(model)))
    _, at, best = max(found, key=lambda entry: entry[0])
    return best, at


def _epoch(
    recipe: Recipe, model: nn.Module, table: Table, optimiser: torch.optim.Optimizer, driver: LambdaLR,
    swa: object, generator: torch.Generator,
) -> None:  # fmt: skip
    model.train()
    order = torch.randperm(len(table), generator=generator)
    for indices in order[: len(order) // recipe.batch * recipe.batch].split(recipe.batch):
        batch = table.batch(indices)
        optimiser.zero_grad()
        recipe.task.loss(recipe.task.forward(model, batch), batch).mean().backward()
        optimiser.step()
        driver.step()
        if swa is not None:
            swa.update(model)


def _outputs(recipe: Recipe, model: nn.Module, table: Table) -> Outputs:
    """In eval mode; the model's mode comes back."""
    with torch.no_grad(), with_weights(model, copy_state(model)) as inner:
        parts = [recipe.task.forward(inner, batch) for batch in table.batches(64)]
    return tree_map(lambda *pieces: torch.cat(pieces), *parts)


def _score(recipe: Recipe, model: nn.Module, table: Table) -> float:
    metric = recipe.task.metrics[0]
    return float(metric.compute(_outputs(recipe, model, table), table.columns).double().nanmean())


def _settled(
    recipe: Recipe, model: nn.Module, average: State, last: State, tables: Mapping[str, Table]
) -> dict[str, State]:
    found = {}
    for policy in ("keep", "average", "recalibrate", "auto"):
        found[f"cycles/swa_{policy}"], record = settle_statistics(
            model, average, last=last, policy=policy, batches=lambda: tables["train"].batches(64),
            score=lambda m: _score(recipe, m, tables["val"]), forward=recipe.task.forward,
        )  # fmt: skip
    print(f"  statistics of the average, auto: {record}", flush=True)
    return found


def _report(
    recipe: Recipe, model: nn.Module, states: Mapping[str, State], tables: Mapping[str, Table], seed: int, tally: Tally
) -> None:
    for label, state in states.items():
        name, weights = label.split("/")
        model.load_state_dict(state)
        for pipeline in recipe.pipelines:
            table = tables[f"report/{pipeline}"]
            outputs = _outputs(recipe, model, table)
            where = {"weights": weights, "pipeline": pipeline}
            for metric in recipe.task.metrics:
                if metric.over == "sample":
                    values = metric.compute(outputs, table.columns)
                    tally.add(seed, name, metric.name, values, unit=metric.unit, better=metric.better, **where)
            for metric_name, compute in recipe.set_metrics.items():
                value = compute(outputs, table.columns)
                tally.add(seed, name, metric_name, value, n=len(table), **where)
                print(f"    {label:22} {pipeline:8} {metric_name} {value:.4f}", flush=True)
