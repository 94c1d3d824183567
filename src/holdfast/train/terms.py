"""Terms to loss: which forwards to run, and the weighted sum of what the terms make of their outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from holdfast.core.contracts import Batch, Outputs, Term
from holdfast.core.errors import ClashError, InputError
from holdfast.core.space import first_tensor

__all__ = ["evaluate"]

_Run: TypeAlias = tuple[Term, Batch]


def evaluate(terms: Sequence[Term], forward: Callable[..., Outputs]) -> Tensor:
    """Sum of weighted mean losses; a view that several terms share (the same object) is run once.

    Args:
        terms: at least one.
        forward: ``batch -> outputs``; takes the keywords of `Term.call`.
    """
    done: dict[tuple[int, int], Outputs] = {}
    for group in _joined(terms):
        _run(group, forward, done)
    total: Tensor | None = None
    for term in terms:
        outputs = tuple(done[_key(term, view)] for view in term.views)
        loss = term.loss(outputs).mean()
        loss = loss if term.weight == 1 else term.weight * loss
        total = loss if total is None else total + loss
    if total is None:
        raise InputError("no term is left", where="objective", fix="keep at least one term when rewriting")
    return total


def _key(term: Term, view: Batch) -> tuple[int, int]:
    return id(view), id(term.call) if term.call else 0


def _run(runs: Sequence[_Run], forward: Callable[..., Outputs], done: dict[tuple[int, int], Outputs]) -> None:
    runs = list({_key(*run): run for run in runs if _key(*run) not in done}.values())
    if len(runs) == 1:
        [(term, view)] = runs
        done[_key(term, view)] = forward(view, **term.call)
    elif runs:
        done.update(_run_joined(runs, forward))


def _run_joined(runs: Sequence[_Run], forward: Callable[..., Outputs]) -> dict[tuple[int, int], Outputs]:
    """One forward of all views concatenated along the sample dimension."""
    sizes = [_batch_size(view) for _, view in runs]
    outputs = forward(tree_map(lambda *parts: torch.cat(parts), *(view for _, view in runs)), **runs[0][0].call)
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return {
        _key(*run): tree_map(lambda out, a=start, n=size: out[a : a + n], outputs)
        for run, start, size in zip(runs, starts, sizes, strict=True)
    }


def _joined(terms: Sequence[Term]) -> list[list[_Run]]:
    """What to run, each list in one forward."""
    by_name = {term.name: [(term, view) for view in term.views] for term in terms if term.joins is None}
    for term in terms:
        if term.joins is not None:
            if term.joins not in by_name:
                raise InputError(f"term {term.name!r} joins {term.joins!r}, which is not there", where="objective")
            by_name[term.joins].extend((term, view) for view in term.views)
    joined = {term.joins for term in terms}
    groups = [group for name, runs in by_name.items() for group in ([runs] if name in joined else [[r] for r in runs])]
    for group in groups:
        if len({id(term.call) for term, _ in group if term.call} | {0 for term, _ in group if not term.call}) > 1:
            raise ClashError(f"terms {[term.name for term, _ in group]} are joined but call the model differently",
                             where="objective", fix="run them in separate forwards")  # fmt: skip
    return groups


def _batch_size(view: Batch) -> int:
    return len(first_tensor(view))
