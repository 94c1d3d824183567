"""Terms to loss: which forwards to run, and the weighted sum of what the terms make of their outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from holdfast.attacks.autograd import accumulate, weighted_mean
from holdfast.core.contracts import Batch, Outputs, PartedLoss, Term
from holdfast.core.errors import ClashError, InputError
from holdfast.core.space import first_tensor
from holdfast.methods.handover import HandedOver

__all__ = ["differentiate", "evaluate", "losses", "total"]

_Run: TypeAlias = tuple[Term, Batch]
_Done: TypeAlias = dict[tuple[int, int], Outputs]
_Weighted: TypeAlias = list[tuple[Tensor | HandedOver, float]]


def evaluate(terms: Sequence[Term], forward: Callable[..., Outputs]) -> Tensor:
    """Sum of weighted mean losses, see `losses`."""
    return total(losses(terms, forward))


def differentiate(weighted: _Weighted) -> Tensor:
    """Call ``backward`` on the weighted sum of mean losses, and return it detached.

    Each loss is given its share of the sum directly: the mean and the sum need no graph.

    Args:
        weighted: of `losses`.
    """
    value: Tensor | None = None
    reached: list[Tensor] = []
    shares: list[Tensor] = []
    for loss, weight in weighted:
        if isinstance(loss, HandedOver):
            part = weight * loss.value
            reached += loss.parameters
            shares += [gradient * weight for gradient in loss.gradients]
        else:
            part, share = weighted_mean(loss, weight)
            if loss.requires_grad:
                reached.append(loss)
                shares.append(share)
        value = part if value is None else value + part
    if not reached or value is None:
        raise InputError("the loss depends on no weight that is trained", where="objective")
    accumulate(reached, shares)
    return value


def losses(terms: Sequence[Term], forward: Callable[..., Outputs]) -> _Weighted:
    """The loss of each term or part of a term, (B,) or (), and its weight.

    A view that several terms share (the same object) is run once.

    Args:
        terms: at least one.
        forward: ``batch -> outputs``; takes the keywords of `Term.call`.

    Raises:
        InputError: there is no term, or one joins another that is not there.
        ClashError: joined terms call the model differently.
    """
    if not terms:
        raise InputError("no term is left", where="objective", fix="keep at least one term when rewriting")
    done = {} if {term.joins for term in terms} == {None} else _run_joined(terms, forward)
    found: _Weighted = []
    for term in terms:
        outputs = []
        for view in term.views:
            key = _key(term, view)
            if key not in done:
                done[key] = forward(view, **term.call)
            outputs.append(done[key])
        if isinstance(term.loss, HandedOver):
            found.append((term.loss, term.weight))
        elif isinstance(term.loss, PartedLoss):
            found += [(part, share * term.weight) for part, share in term.loss.parts(tuple(outputs))]
        else:
            found.append((term.loss(tuple(outputs)), term.weight))
    return found


def total(weighted: _Weighted) -> Tensor:
    """The weighted sum of the means."""
    value: Tensor | None = None
    for found, weight in weighted:
        loss = found() if isinstance(found, HandedOver) else found
        mean = loss.mean() if weight == 1 else weight * loss.mean()
        value = mean if value is None else value + mean
    assert value is not None
    return value


def _key(term: Term, view: Batch) -> tuple[int, int]:
    return id(view), id(term.call) if term.call else 0


def _run_joined(terms: Sequence[Term], forward: Callable[..., Outputs]) -> _Done:
    """The outputs of the views of joined terms, each group in one forward."""
    done: _Done = {}
    for group in _joined(terms):
        runs = list({_key(*run): run for run in group if _key(*run) not in done}.values())
        if len(runs) > 1:
            sizes = [len(first_tensor(view)) for _, view in runs]
            whole = tree_map(lambda *parts: torch.cat(parts), *(view for _, view in runs))
            parts = _split(forward(whole, **runs[0][0].call), sizes)
            done.update((_key(*run), part) for run, part in zip(runs, parts, strict=True))
    return done


def _split(outputs: Outputs, sizes: Sequence[int]) -> list[Outputs]:
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [
        tree_map(lambda out, a=a, n=n: out[a : a + n] if isinstance(out, Tensor) else out, outputs)
        for a, n in zip(starts, sizes, strict=True)
    ]


def _joined(terms: Sequence[Term]) -> list[list[_Run]]:
    """What is run in one forward, of each term that others join."""
    names = dict.fromkeys(term.joins for term in terms if term.joins is not None)
    groups = {term.name: [(term, view) for view in term.views] for term in terms
              if term.joins is None and term.name in names}  # fmt: skip
    for term in terms:
        if term.joins is not None:
            if term.joins not in groups:
                raise InputError(f"term {term.name!r} joins {term.joins!r}, which is not there", where="objective")
            groups[term.joins].extend((term, view) for view in term.views)
    for group in groups.values():
        if len({id(term.call) for term, _ in group if term.call} | {0 for term, _ in group if not term.call}) > 1:
            raise ClashError(f"terms {[term.name for term, _ in group]} are joined but call the model differently",
                             where="objective", fix="run them in separate forwards")  # fmt: skip
    return list(groups.values())
