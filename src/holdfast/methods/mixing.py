"""What mixup-like methods share: draws of lambda and partners, and losses for two targets at once."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils._pytree import tree_map

from holdfast.core.contracts import Batch, Outputs, Step, TaskLoss, Term
from holdfast.core.errors import InputError
from holdfast.core.space import get_leaf, mapped
from holdfast.methods.rewriting import chosen_leaves

__all__ = ["blend", "mix_leaves", "mixed_term", "on_host", "partners", "samples_of", "single_view", "taken"]


def on_host(generator: Generator) -> Random:
    """Draws of single numbers, from the generator's seed: the host knows them without waiting for a device."""
    return Random(generator.initial_seed())


def partners(n: int, generator: Generator) -> Tensor:
    """A random permutation, int64 (n,): sample ``i`` is mixed with sample ``order[i]``."""
    return torch.randperm(n, generator=generator, device=generator.device)


def taken(batch: Batch, order: Tensor) -> Batch:
    """The samples of a batch in another order, int64 (n,)."""
    return mapped(batch, lambda x: _taken(x, order))


def blend(lam: float) -> Callable[[Tensor, Tensor], Tensor]:
    """``(x, partner) -> lam x + (1 - lam) partner``, exact at both ends."""
    return lambda x, partner: torch.lerp(partner, x, lam)


def mix_leaves(step: Step, view: Batch, other: Batch, mix: Callable[[Tensor, Tensor], Tensor]) -> Batch:
    """The view with each perturbable leaf ``x`` replaced by ``mix(x, partner)``, the partner from ``other``."""
    leaves = step.task.space.leaves
    return step.task.space.replace(view, {path: mix(get_leaf(view, path), get_leaf(other, path)) for path in leaves})


def mixed_term(term: Term, view: Batch, other: Batch, step: Step, order: Tensor, lam: float, *, by_task: bool = True,
               **changes: Any) -> Term:  # fmt: skip
    r"""The term on a mixed view; ``other`` is its own view in the order ``order``.

    Its loss is ``lam l(f(x_mix), y) + (1 - lam) l(f(x_mix), y[order])``, which needs no knowledge of targets; a task
    with ``target_mix`` mixes the targets of its own clean term instead, unless ``by_task`` is false.
    """
    loss = _mixed_outputs(term, order, lam)
    if isinstance(term.loss, TaskLoss):
        task, batch = term.loss.task, term.loss.batch
        swapped = other if batch is term.views[0] else taken(batch, order)
        if by_task and task.target_mix is not None:
            loss = TaskLoss(task, task.target_mix(batch, swapped, lam))
        else:
            loss = _mixed_targets(term.loss, TaskLoss(task, swapped), lam)
    return term.changed(views=(view,), loss=loss, **changes)


def _mixed_targets(own: TaskLoss, swapped: TaskLoss, lam: float) -> Callable[[tuple[Outputs, ...]], Tensor]:
    return lambda outputs: torch.lerp(swapped(outputs), own(outputs), lam)


def _mixed_outputs(term: Term, order: Tensor, lam: float) -> Callable[[tuple[Outputs, ...]], Tensor]:
    """For a loss whose targets nobody knows: outputs go to where their partner's target is, the losses come back."""

    def loss(outputs: tuple[Outputs, ...]) -> Tensor:
        back = order.argsort()
        moved = tree_map(lambda out: _taken(out, back) if isinstance(out, Tensor) else out, outputs)
        own, swapped = term.loss(outputs), term.loss(moved)
        return torch.lerp(_taken(swapped, order) if swapped.ndim else swapped, own, lam)

    return loss


def samples_of(view: Batch, step: Step, *, who: str) -> int:
    """Number of samples of a view that is to be mixed.

    Raises:
        NoEffectError: the task declares no leaf that could be mixed.
    """
    path = next(iter(chosen_leaves(step.task.space, None, who=who)))
    return len(get_leaf(view, path))


def single_view(term: Term, *, who: str) -> Batch:
    """The only view of a term that is to be mixed.

    Raises:
        InputError: the term compares several views, which have no targets to mix.
    """
    if len(term.views) != 1:
        raise InputError(f"term {term.name!r} has {len(term.views)} views", where=who, fix="mix a term of one view")
    return term.views[0]


def _taken(x: Tensor, order: Tensor) -> Tensor:
    return x.index_select(0, order.to(x.device))  # less than half as long as x[order] on a CPU
