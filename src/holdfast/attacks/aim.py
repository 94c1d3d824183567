"""What an attack aims at when it may know more than one number per sample: outputs, classes, what counts as broken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from holdfast.core.contracts import Batch, Outputs, Task
from holdfast.core.errors import InputError
from holdfast.core.space import Leaf, first_tensor
from holdfast.surgery.tapped import read_tap, tapped

__all__ = ["UNBOUNDED", "Aim", "at_inputs", "at_tap"]

UNBOUNDED = Leaf(low=-float("inf"), high=float("inf"), unit=1.0)
"""How budgets of inner tensors are counted: no range, and a unit of 1."""


def _itself(z: Tensor) -> Any:
    return z


def _task_error(aim: Aim, outputs: Outputs) -> Tensor:
    return aim.error(outputs, aim.batch)


@dataclass(frozen=True, kw_only=True)
class Aim:
    """The error of each sample of a batch as a function of what is attacked; samples may be taken out of it.

    It stands in for the plain loss of an attack: ``aim(z) -> Tensor (B,)``.

    Args:
        forward: ``(what is attacked, batch) -> outputs``.
        batch: a nest of tensors with one entry a sample.
        error: ``(outputs, batch) -> Tensor (B,)``, the task's own.
        failed: ``(outputs, batch) -> bool Tensor (B,)``: with it, iterated attacks let go of a sample once it is
            broken; None (default) keeps all of them until the end.
        labels: int64 (B,), the true classes where the outputs are logits float (B, K).
        targets: int64 (B,), the classes that a targeted attack wants.
        raised: ``(aim, outputs) -> Tensor (B,)``, what is raised instead of the error.
        engine: ``(what is attacked, batch) -> outputs``, with a graph where that asks for one: something faster than
            ``forward`` to find the way with. What it calls broken is confirmed by ``forward``. None (default):
            ``forward``.
        view: what is attacked as a function of the tensor that the attack moves.
        watch: is shown every tensor that outputs are asked for, and ``runs``.
        runs: how often the samples are in the batch, one copy after the other, where attacks run side by side.
    """

    forward: Callable[[Any, Batch], Outputs]
    batch: Batch
    error: Callable[[Outputs, Batch], Tensor]
    failed: Callable[[Outputs, Batch], Tensor] | None = None
    labels: Tensor | None = None
    targets: Tensor | None = None
    raised: Callable[[Aim, Outputs], Tensor] = _task_error
    engine: Callable[[Any, Batch], Outputs] | None = None
    view: Callable[[Tensor], Any] = _itself
    watch: Callable[[Tensor, int], None] | None = None
    runs: int = 1

    def __call__(self, z: Tensor) -> Tensor:
        """What the attack raises, (B,)."""
        return self.value(self.outputs(z))

    def outputs(self, z: Tensor) -> Outputs:
        """Outputs of the engine, with a graph where ``z`` asks for one."""
        if self.watch is not None:
            self.watch(z, self.runs)
        return (self.engine or self.forward)(self.view(z), self.batch)

    def value(self, outputs: Outputs) -> Tensor:
        """What the attack raises, from outputs, (B,)."""
        return self.raised(self, outputs)

    def broken(self, z: Tensor, outputs: Outputs, *, among: Tensor | None = None) -> Tensor | None:
        """Which samples ``z`` breaks, bool (B,), by its outputs; None where that does not count.

        ``among``, bool (B,): no others come into question.
        """
        if self.failed is None:
            return None
        with torch.no_grad():
            broken = self.failed(outputs, self.batch)
            broken = broken if among is None else broken & among
            return broken if self.engine is None else self._confirmed(z, broken)

    def _confirmed(self, z: Tensor, broken: Tensor) -> Tensor:
        """What the engine calls broken, if the model agrees."""
        assert self.failed is not None
        if bool(broken.any()):
            rows = broken.nonzero().squeeze(1)
            part = replace(self.take(rows), engine=None)
            broken[rows] = self.failed(part.outputs(z.detach()[rows]), part.batch)
        return broken

    def take(self, rows: Tensor) -> Aim:
        """The aim for some of the samples, int64 (n,)."""
        own = tree_map(lambda t: t[rows] if isinstance(t, Tensor) else t, (self.batch, self.labels, self.targets))
        return replace(self, batch=own[0], labels=own[1], targets=own[2])

    def through(self, view: Callable[[Tensor], Any]) -> Aim:
        """The aim as a function of a tensor of which ``view`` makes what it was a function of."""
        outer = self.view
        return replace(self, view=lambda z: outer(view(z)))


def at_inputs(task: Task, model: nn.Module, batch: Batch, *, leave: bool = True) -> Aim:
    """The task's error as a function of the perturbable leaves by path, for `holdfast.attacks.seal.perturb`.

    Args:
        task: the task.
        model: what is attacked.
        batch: of model inputs.
        leave: samples that have failed leave the batch, where the task says what failing is.
    """

    def forward(values: Mapping[str, Tensor], part: Batch) -> Outputs:
        return task.forward(model, task.space.replace(part, values))

    return _aim(task, forward, batch, leave=leave)


def at_tap(task: Task, model: nn.Module, batch: Batch, tap: str, *, leave: bool = True) -> tuple[Aim, Tensor]:
    """The task's error as a function of what is added to a tap, and the zeros at which that begins.

    Args:
        task: the task.
        model: what is attacked; it need not be prepared.
        batch: of model inputs.
        tap: name of a layer, whose output is moved; with ``:input`` after it, its first input.
        leave: see `at_inputs`.

    Raises:
        InputError: the model has no such layer, or does not reach it.
    """
    wrapped = tapped(model)
    clean = read_tap(lambda: task.forward(wrapped, batch), wrapped.model, tap)
    if len(clean) != len(first_tensor(batch)):
        raise InputError(f"is {tuple(clean.shape)}, without an entry for each sample", where=f"tap {tap!r}",
                         fix="name a layer whose output has the batch as first dimension")  # fmt: skip

    def forward(delta: Tensor, part: Batch) -> Outputs:
        return task.forward(wrapped, part, add={tap: delta})

    return _aim(task, forward, batch, leave=leave), torch.zeros_like(clean, dtype=torch.float32)


def _aim(task: Task, forward: Callable[[Any, Batch], Outputs], batch: Batch, *, leave: bool) -> Aim:
    labels = None if task.labels is None else task.labels(batch)
    return Aim(forward=forward, batch=batch, error=task.loss, failed=task.failed if leave else None, labels=labels)
