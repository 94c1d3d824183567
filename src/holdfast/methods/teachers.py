"""Fixed teachers: a task's model with weights from a file, loaded once."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

from holdfast.core.contracts import Batch, Outputs, Step
from holdfast.core.errors import InputError
from holdfast.weights.files import load

__all__ = ["pseudo_labelled"]


def pseudo_labelled(view: Batch, teacher: str, step: Step, *, who: str) -> Batch:
    """The view with labels taken from a fixed teacher in eval mode.

    Raises:
        InputError: no teacher is named, its weights do not fit the task's model, or the task cannot label.
    """
    if step.task.pseudo_label is None:
        raise InputError("the task declares no pseudo_label", where=who, fix="give Task(pseudo_label=...)")
    if not teacher:
        raise InputError("no teacher is named", where=who, fix="give the path of weights trained on the labels alone")
    path = Path(teacher)
    device = next(step.model.parameters()).device
    model = _teacher(step.task.build_model, path, path.stat().st_mtime_ns if path.exists() else 0, device, who)
    with torch.no_grad():
        outputs: Outputs = step.task.forward(model, view)
        return step.task.pseudo_label(outputs, view)


@lru_cache(maxsize=4)
def _teacher(build: Callable[[], nn.Module], path: Path, changed_ns: int, device: torch.device, who: str) -> nn.Module:
    state, _ = load(path)
    with torch.random.fork_rng(devices=[]):
        model = build()
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"the weights do not fit the task's model: {error}", where=f"{who}, teacher {path}") from error
    return model.to(device).eval().requires_grad_(False)
