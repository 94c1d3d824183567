"""What mixup-like methods share: draws of lambda and partners, and losses for two targets at once."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, TypeAlias

import torch
from torch import Generator, Tensor
from torch.utils._pytree import tree_map

from holdfast.core.contracts import Batch, Outputs, Step, TaskLoss, Term
from holdfast.core.errors import InputError
from holdfast.core.space import get_leaf
from holdfast.methods.rewriting import chosen_leaves

__all__ = ["blend", "mix_leaves", "mixed_term", "on_host", "partners", "samples_of", "single_view"]

Mix: TypeAlias = Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]
"""``(x, partners_of) -> mixed``; ``partners_of`` puts ``x``, or a part of it, in the order of the partners."""


def on_host(generator: Generator) -> Random:
    """Draws of single numbers, from the generator's seed: the host knows them without waiting for a device."""
    return Random(generator.initial_seed())


def partners(n: int, generator: Generator) -> Tensor:
    """A random permutation, int64 (n,): sample ``i`` is mixed with sample ``order[i]``."""
    return torch.randperm(n, generator=generator, device=generator.device)


def blend(lam: float) -> Mix:
    """``lam x + (1 - lam) x[order]``, exact at both ends."""
    return lambda x, partners_of: torch.lerp(partners_of(x), x, lam)


def mix_leaves(step: Step, view: Batch, order: Tensor, mix: Mix) -> Batch:
    """The view with each perturbable leaf mixed with its partners'."""
    values = step.task.space.values(view)
    return step.task.space.replace(view, {path: mix(x, lambda part: _taken(part, order)) for path, x in values.items()})


def mixed_term(term: Term, view: Batch, step: Step, order: Tensor, lam: float, *, by_task: bool = True,
               **changes: Any) -> Term:  # fmt: skip
    r"""The term on a mixed view.

    Its loss is ``lam l(f(x_mix), y) + (1 - lam) l(f(x_mix), y[order])``. Outputs are put into another order for it, not
    targets: a batch may hold boxes of all samples in one tensor, anchors or weights of classes, and nobody says which.
    A task with ``target_mix`` mixes the targets of its own loss instead, unless ``by_task`` is false.
    """
    task = step.task
    if by_task and task.target_mix is not None and isinstance(term.loss, TaskLoss):
        batch = term.loss.batch
        loss: Callable[..., Tensor] = TaskLoss(task, task.target_mix(batch, _samples(batch, order), lam))
    else:
        loss = _mixed_losses(term, order, lam)
    return term.changed(views=(view,), loss=loss, **changes)


def _mixed_losses(term: Term, order: Tensor, lam: float) -> Callable[[tuple[Outputs, ...]], Tensor]:
    """Outputs go to where their partner's target stands, and the losses come back."""

    def loss(outputs: tuple[Outputs, ...]) -> Tensor:
        back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        own, swapped = term.loss(outputs), term.loss(tuple(_samples(out, back) for out in outputs))
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


def _samples(nest: Any, order: Tensor) -> Any:
    """The samples of a nest of tensors in another order."""
    if isinstance(nest, Tensor):
        return _taken(nest, order)
    return tree_map(lambda t: _taken(t, order) if isinstance(t, Tensor) else t, nest)


def _taken(x: Tensor, order: Tensor) -> Tensor:
    return x.index_select(0, order.to(x.device))  # less than half as long as x[order] on a CPU
