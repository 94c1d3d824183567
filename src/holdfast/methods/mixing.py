"""What mixup-like methods share: draws of lambda and partners, and losses for two targets at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils._pytree import tree_map

from holdfast.core.contracts import Batch, Outputs, PartedLoss, Step, TaskLoss, Term
from holdfast.core.errors import InputError
from holdfast.core.space import get_leaf
from holdfast.methods.rewriting import chosen_leaves

__all__ = ["blended_term", "mixed_term", "on_host", "partners", "single_view", "taken"]


def on_host(generator: Generator) -> Random:
    """Draws of single numbers, from the generator's seed: the host knows them without waiting for a device."""
    return Random(generator.initial_seed())


def partners(n: int, generator: Generator) -> Tensor:
    """A random permutation, int64 (n,): sample ``i`` is mixed with sample ``order[i]``."""
    return torch.randperm(n, generator=generator, device=generator.device)


def blended_term(term: Term, step: Step, *, alpha: float, who: str, **changes: Any) -> Term:
    """The term on convex combinations of pairs, one ``lam ~ Beta(alpha, alpha)`` and one permutation for the batch.

    Raises:
        NoEffectError: the task declares no leaf that could be mixed.
        InputError: the term compares several views.
    """
    draw, view, space = step.draw(who.lower()), single_view(term, who=who), step.task.space
    lam = on_host(draw).betavariate(alpha, alpha)
    values = {path: get_leaf(view, path) for path in chosen_leaves(space, None, who=who)}
    order = partners(len(next(iter(values.values()))), draw)
    theirs = {path: taken(x, order) for path, x in values.items()}
    mixed = space.replace(view, {path: torch.lerp(theirs[path], x, lam) for path, x in values.items()})
    return mixed_term(term, mixed, step, order, lam, theirs=theirs, **changes)


def mixed_term(term: Term, view: Batch, step: Step, order: Tensor, lam: float, *, by_task: bool = True,
               theirs: Mapping[str, Tensor] | None = None, **changes: Any) -> Term:  # fmt: skip
    r"""The term on a mixed view.

    Its loss is ``lam l(f(x_mix), y) + (1 - lam) l(f(x_mix), y[order])``. Outputs are put into another order for it, not
    targets: a batch may hold boxes of all samples in one tensor, anchors or weights of classes, and nobody says which.
    Only where a task declares its labels, and the batch is them and leaves whose partners are given as ``theirs``, the
    targets are swapped, which costs less.
    A task with ``target_mix`` mixes the targets of its own loss instead, unless ``by_task`` is false.
    """
    task = step.task
    if by_task and task.target_mix is not None and isinstance(term.loss, TaskLoss):
        batch = term.loss.batch
        loss: Callable[..., Tensor] = TaskLoss(task, task.target_mix(batch, _samples(batch, order), lam))
    else:
        of_partners = None if theirs is None else _of_partners(term, theirs, order)
        loss = _Moving(term.loss, order, lam) if of_partners is None else _Swapping(term.loss, of_partners, lam)
    return term.changed(views=(view,), loss=loss, **changes)


def _of_partners(term: Term, theirs: Mapping[str, Tensor], order: Tensor) -> TaskLoss | None:
    """The task's loss with the partners' batch; None where the batch holds more than leaves and declared labels."""
    loss, [batch] = term.loss, term.views
    if not isinstance(loss, TaskLoss) or loss.batch is not batch or loss.task.labels is None:
        return None
    entries = batch if isinstance(batch, Mapping) else {str(i): value for i, value in enumerate(batch)}
    rest = [key for key in entries if key not in theirs]
    if len(rest) != 1 or not isinstance(rest[0], str) or "." in rest[0]:
        return None
    [path], labels = rest, entries[rest[0]]
    if labels is not loss.task.labels(batch):
        return None
    return TaskLoss(loss.task, loss.task.space.replace(batch, {**theirs, path: taken(labels, order)}))


@dataclass(frozen=True, eq=False)
class _Swapping(PartedLoss):
    """The losses of the same outputs against the samples' targets and their partners'."""

    own: Callable[[tuple[Outputs, ...]], Tensor]
    of_partners: Callable[[tuple[Outputs, ...]], Tensor]
    lam: float

    def __call__(self, outputs: tuple[Outputs, ...]) -> Tensor:
        return torch.lerp(self.of_partners(outputs), self.own(outputs), self.lam)

    def parts(self, outputs: tuple[Outputs, ...]) -> Sequence[tuple[Tensor, float]]:
        """The loss of the samples, and that of their partners."""
        return (self.own(outputs), self.lam), (self.of_partners(outputs), 1.0 - self.lam)


@dataclass(frozen=True, eq=False)
class _Moving(PartedLoss):
    """Outputs go to where their partner's target stands, and the losses come back."""

    loss: Callable[[tuple[Outputs, ...]], Tensor]
    order: Tensor
    lam: float

    def __call__(self, outputs: tuple[Outputs, ...]) -> Tensor:
        (own, _), (swapped, _) = self.parts(outputs)
        return torch.lerp(taken(swapped, self.order) if swapped.ndim else swapped, own, self.lam)

    def parts(self, outputs: tuple[Outputs, ...]) -> Sequence[tuple[Tensor, float]]:
        """The loss of the samples, and that of their partners in the partners' order."""
        n, device = len(self.order), self.order.device
        back = torch.empty_like(self.order).scatter_(0, self.order, torch.arange(n, device=device))
        swapped = self.loss(tuple([_samples(out, back) for out in outputs]))
        return (self.loss(outputs), self.lam), (swapped, 1.0 - self.lam)


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
        return taken(nest, order)
    return tree_map(lambda t: taken(t, order) if isinstance(t, Tensor) else t, nest)


def taken(x: Tensor, order: Tensor) -> Tensor:
    """The samples of ``x`` in another order."""
    return x.index_select(0, order.to(x.device))  # less than half as long as x[order] on a CPU
