"""The reference loop: plain PyTorch, resumable to the same bits; nothing here that a user's loop could not do."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.core.config import Training
from holdfast.core.contracts import Average, Batch, RunningAverage, Task
from holdfast.core.errors import InputError, NonFiniteError
from holdfast.core.store import atomic_path
from holdfast.data.table import Table
from holdfast.train.draws import generator, stream_seed
from holdfast.train.guard import Guard, RunningGuard
from holdfast.train.objective import Objective
from holdfast.weights.schedule import CyclicSchedule, SWASchedule

EXAMPLE_SAMPLES = 64  # a layer's variance is measured on them by some initialisations

__all__ = ["TrainingRun", "build_initial", "learning_rate", "train"]


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """What a training needs besides task and objective.

    Args:
        table: the training split under the ``train`` pipeline.
        variants: the same samples under the pipelines that methods mix, by name.
        training: epochs, batch size, optimiser, schedule.
        averages: by the name of the weights they give.
        init_seed, order_seed: seeds of the initialisation, and of order and draws.
        checkpoint: where to save progress; removed when training is finished.
        guard: watches adversarial training after every epoch, on ``held_out``.
        held_out: a batch of samples that are not trained on.
        advance: called with the number of steps done since the last call and a short note.
    """

    table: Table
    variants: Mapping[str, Table]
    training: Training
    averages: Mapping[str, Average]
    init_seed: int
    order_seed: int
    checkpoint: Path
    guard: Guard | None = None
    held_out: Batch | None = None
    advance: Callable[[int, str], None] = lambda steps, note: None


@dataclass
class _State:
    model: nn.Module
    optimiser: torch.optim.Optimizer
    averages: dict[str, RunningAverage]
    guard: RunningGuard | None = None
    step: int = 0
    loss_sum: float = 0.0
    cpu_s: float = 0.0


def build_initial(task: Task, init_seed: int) -> nn.Module:
    """The task's untrained model under a seed, leaving the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed("init", init_seed))
        return task.build_model()


def prepared_initial(task: Task, objective: Objective, run: TrainingRun) -> nn.Module:
    """The model as training begins, after every surgery; those that draw are seeded like the initialisation."""
    example = run.table.batch(torch.arange(min(EXAMPLE_SAMPLES, len(run.table))))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed("surgery", run.init_seed))
        return objective.prepare(build_initial(task, run.init_seed), example)


def train(task: Task, objective: Objective, run: TrainingRun) -> tuple[dict[str, dict[str, Tensor]], dict[str, float]]:
    """Train one recipe under one pair of seeds, from the last checkpoint where there is one.

    Returns:
        State dicts by name (``init``, ``last`` and one per average), all of the stripped model, and facts:
        ``steps``, ``final_loss`` (mean over the last tenth of the steps) and ``cpu_s``.

    Raises:
        NonFiniteError: the loss became NaN or infinite, naming the step.
        InputError: fewer samples than one batch.
    """
    steps_per_epoch = len(run.table) // run.training.batch_size
    if steps_per_epoch == 0:
        raise InputError(f"{len(run.table)} training samples do not fill one batch of {run.training.batch_size}",
                         where=f"task {task.name!r}", fix="lower training.batch_size")  # fmt: skip
    total = steps_per_epoch * run.training.epochs
    model = prepared_initial(task, objective, run)
    initial = _deployable(objective, model)
    state = _State(model, _optimiser(model, run.training), {k: a.start(model) for k, a in run.averages.items()})
    if run.guard is not None:
        state.guard = run.guard.start(task, run.held_out, objective, model, state.optimiser,
                                      tuple(state.averages.values()))  # fmt: skip
    _resume(state, objective, run)
    run.advance(state.step, "resumed" if state.step else "")
    _steps(task, objective, run, state, steps_per_epoch, total)
    weights = {"init": initial, **_finished(objective, state)}
    run.checkpoint.unlink(missing_ok=True)
    tail = max(1, total // 10)
    facts = {"steps": float(total), "final_loss": state.loss_sum / tail, "cpu_s": state.cpu_s}
    if state.guard is not None:
        facts["guard_rollbacks"] = float(state.guard.changes)
    return weights, facts


def _steps(task: Task, objective: Objective, run: TrainingRun, state: _State, per_epoch: int, total: int) -> None:
    saved_at = time.monotonic()
    began = time.process_time() - state.cpu_s
    state.model.train()
    while state.step < total:
        epoch, position = divmod(state.step // objective.replays, per_epoch)
        indices = _order(len(run.table), run, epoch)
        at = position * run.training.batch_size
        batch = _batch(task, run, indices[at : at + run.training.batch_size])
        loss = _step(objective, run, state, batch, total)
        if state.step > total - max(1, total // 10):
            state.loss_sum += loss
        run.advance(1, f"loss {loss:.3g}")
        if state.guard is not None and state.step % per_epoch == 0:
            state.guard.check()
        state.cpu_s = time.process_time() - began
        if time.monotonic() - saved_at >= run.training.checkpoint_seconds and state.step < total:
            _save(state, objective, run)
            saved_at = time.monotonic()


def _step(objective: Objective, run: TrainingRun, state: _State, batch: Batch, total: int) -> float:
    # Dropout draws from the global generator: keyed by the step, a resumed run draws the same masks.
    torch.manual_seed(stream_seed("dropout", run.order_seed, state.step))
    for group in state.optimiser.param_groups:
        group["lr"] = learning_rate(run.training, state.step, total)
    loss = float(objective.backward(state.model, batch))
    if not math.isfinite(loss):
        raise NonFiniteError(f"the loss became {loss} at step {state.step} of {total}", where="training",
                             fix="lower the learning rate or the attack's eps, or set training.clip_norm")  # fmt: skip
    if run.training.clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(state.model.parameters(), run.training.clip_norm)
    state.optimiser.step()
    state.optimiser.zero_grad(set_to_none=True)
    for average in state.averages.values():
        average.update(state.model)
    state.step += 1
    return loss


def learning_rate(training: Training, step: int, total: int) -> float:
    """The learning rate of a step.

    ``one_cycle``: from lr/25 up to lr by a half cosine in the first 30 %, then down to lr/10^4 (Smith & Topin 2018,
    with the cosine form common today); ``cosine``: lr/2 (1 + cos(pi t)); ``step``: x 0.1 at 1/2 and at 3/4; ``swa``
    and ``cyclic``: see `holdfast.weights.schedule`.
    """
    if training.schedule == "swa":
        return training.lr * SWASchedule(start_step=max(1, 3 * total // 4))(step)
    if training.schedule == "cyclic":
        return training.lr * CyclicSchedule(cycle_steps=max(1, total // training.epochs))(step)
    t = step / max(1, total - 1)
    if training.schedule == "constant":
        return training.lr
    if training.schedule == "step":
        return training.lr * (1.0 if t < 0.5 else 0.1 if t < 0.75 else 0.01)
    if training.schedule == "cosine":
        return training.lr * 0.5 * (1 + math.cos(math.pi * t))
    if t < 0.3:
        return _half_cosine(training.lr / 25, training.lr, t / 0.3)
    return _half_cosine(training.lr, training.lr / 1e4, (t - 0.3) / 0.7)


def _half_cosine(start: float, end: float, t: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * t))


def _optimiser(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if training.optimiser == "sgd":
        return torch.optim.SGD(parameters, lr=training.lr, momentum=training.momentum,
                               weight_decay=training.weight_decay)  # fmt: skip
    kind = torch.optim.AdamW if training.optimiser == "adamw" else torch.optim.Adam
    return kind(parameters, lr=training.lr, weight_decay=training.weight_decay)


def _order(n: int, run: TrainingRun, epoch: int) -> Tensor:
    return torch.randperm(n, generator=generator("order", run.order_seed, epoch))


def _batch(task: Task, run: TrainingRun, indices: Tensor) -> Batch:
    batch = run.table.batch(indices)
    if not run.variants:
        return batch
    (path, _), *more = list(task.space)
    if more or not isinstance(batch, dict) or "." in path:
        raise InputError("variants need dict batches with a single perturbable leaf", where=f"task {task.name!r}",
                         fix="return dicts from data(split), or drop the method that mixes pipelines")  # fmt: skip
    return {**batch, "variants": {name: table.batch(indices)[path] for name, table in run.variants.items()}}


def _deployable(objective: Objective, model: nn.Module) -> dict[str, Tensor]:
    """State dict of the stripped model; stripping may change a model that is still needed, so a copy is stripped."""
    stripped = objective.strip(copy.deepcopy(model)) if objective.surgery else model
    return {key: value.clone() for key, value in stripped.state_dict().items()}


def _finished(objective: Objective, state: _State) -> dict[str, dict[str, Tensor]]:
    """State dicts of the stripped model for the last iterate and for every average."""
    raw = {name: value.clone() for name, value in state.model.state_dict().items()}
    found = {}
    kinds = {**{k: a.weights() for k, a in state.averages.items()}, "last": raw}
    if state.guard is not None:
        kinds["best_robust"] = state.guard.best or raw
    for name, weights in kinds.items():
        state.model.load_state_dict(weights)
        found[name] = _deployable(objective, state.model)
    return found


def _save(state: _State, objective: Objective, run: TrainingRun) -> None:
    content: dict[str, Any] = {
        "step": state.step,
        "loss_sum": state.loss_sum,
        "cpu_s": state.cpu_s,
        "model": state.model.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "objective": objective.state_dict(),
        "averages": {name: average.state_dict() for name, average in state.averages.items()},
        "guard": state.guard.state_dict() if state.guard is not None else None,
    }
    with atomic_path(run.checkpoint) as path:
        torch.save(content, path)


def _resume(state: _State, objective: Objective, run: TrainingRun) -> None:
    if not run.checkpoint.exists():
        return
    content = torch.load(run.checkpoint, weights_only=True)
    state.step, state.loss_sum, state.cpu_s = content["step"], content["loss_sum"], content["cpu_s"]
    state.model.load_state_dict(content["model"])
    state.optimiser.load_state_dict(content["optimiser"])
    objective.load_state_dict(content["objective"])
    for name, average in state.averages.items():
        average.load_state_dict(content["averages"][name])
    if state.guard is not None:
        state.guard.load_state_dict(content["guard"])
