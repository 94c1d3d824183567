"""BatchNorm statistics of a recipe's averages, settled once its training is over, and what each average is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.core.config import Recipe
from holdfast.core.contracts import Task
from holdfast.core.errors import InputError
from holdfast.data.table import Table, spread
from holdfast.weights.batchnorm import settle_statistics

__all__ = ["settle_averages"]

BATCH = 64
CALIBRATION_SAMPLES, SCORED_SAMPLES = 4096, 1024
"""Training samples from which statistics are estimated, and samples of ``val`` on which ``auto`` measures."""

Weights = dict[str, dict[str, Tensor]]


def settle_averages(
    recipe: Recipe, task: Task, model: nn.Module, weights: Weights, *, train: Table, val: Table | None
) -> tuple[Weights, dict[str, dict[str, Any]]]:
    """Give every average of a recipe the statistics that its ``batchnorm`` asks for.

    Args:
        recipe: says which averages there are, and the policy.
        task: measures, for ``auto``.
        model: an instance of the deployable model; gets its own weights back.
        weights: by name; ``last`` among them.
        train: the training split under the ``train`` pipeline.
        val: the ``val`` split; needed by ``auto``.

    Returns:
        The weights, and for each average what its file says of it.

    Raises:
        InputError: ``auto`` without a ``val`` split or without a metric that has a direction.
    """
    if recipe.batchnorm == "auto" and recipe.averages and val is None:
        raise InputError("batchnorm 'auto' measures on 'val'", where=f"task {task.name!r}",
                         fix="give the task a val split, or choose recalibrate")  # fmt: skip
    settled, records = dict(weights), {}
    for name, options in recipe.averages.items():
        settled[name], statistics = settle_statistics(
            model, weights[name], last=weights["last"], policy=recipe.batchnorm,
            batches=lambda: _spread(train, CALIBRATION_SAMPLES), score=_score(task, val), forward=task.forward,
        )  # fmt: skip
        records[name] = {"average": name, "options": dict(options), "batchnorm": statistics}
    return settled, records


def _score(task: Task, val: Table | None) -> Callable[[nn.Module], float] | None:
    """``model -> float``, higher is better: the first metric over samples that has a direction."""
    metric = next((m for m in task.metrics if m.over == "sample" and m.better != "neither"), None)
    if val is None or metric is None:
        return None

    def score(model: nn.Module) -> float:
        values = [metric.compute(task.forward(model, batch), batch) for batch in _spread(val, SCORED_SAMPLES)]
        mean = float(torch.cat([value.double() for value in values]).nanmean())
        return mean if metric.better == "higher" else -mean

    return score


def _spread(table: Table, limit: int) -> list[Any]:
    """At most so many samples of a table, evenly spread over it, in batches of which none holds a single one."""
    chosen = spread(len(table), limit)
    return [table.batch(part) for part in torch.tensor_split(chosen, max(1, len(chosen) // BATCH))]
