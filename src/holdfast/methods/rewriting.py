"""What methods share: finding terms by name, splitting them, and attacking the views of a term."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from torch import Generator, Tensor

from holdfast.attacks.seal import BNDuringAttack, perturb
from holdfast.core.contracts import Attack, Batch, Outputs, Step, Term
from holdfast.core.errors import ClashError, InputError, NoEffectError
from holdfast.core.space import InputSpace, Leaf, get_leaf, with_leaf

__all__ = ["Leaves", "attacked", "chosen_leaves", "only_leaf", "rewritten", "split"]

Leaves: TypeAlias = str | Sequence[str] | None
"""Which leaves of the input space to act on: one path, several, or None for all."""


def rewritten(
    terms: Sequence[Term], on: Sequence[str], change: Callable[[Term], list[Term]], *, who: str
) -> list[Term]:
    """The terms with those named in ``on`` replaced by what ``change`` makes of them.

    Raises:
        NoEffectError: a name of ``on`` is not there; the method would silently do less than asked.
        ClashError: a named term is crafted already, e.g. by an earlier attack.
    """
    if not on:
        raise NoEffectError("`on` names no term", where=who, fix="use on=('clean',)")
    names = [term.name for term in terms]
    for name in on:
        if name not in names:
            raise NoEffectError(f"no term named {name!r} among {sorted(names)}", where=who,
                                fix="name a term in `on`, after the method that makes it")  # fmt: skip
    new = []
    for term in terms:
        if term.name not in on:
            new.append(term)
        elif term.crafted:
            raise ClashError(f"term {term.name!r} is crafted already", where=who, fix="let one method craft each term")
        else:
            new += change(term)
    return new


def split(term: Term, *, suffix: str, clean_weight: float, **new: Any) -> list[Term]:
    """``clean_weight`` of a term as it was and the rest with ``new`` fields; that one keeps the name if alone."""
    weight = (1.0 - clean_weight) * term.weight
    if clean_weight == 0:
        return [term.changed(weight=weight, **new)]
    kept = term.changed(weight=clean_weight * term.weight)
    return [kept, term.changed(name=f"{term.name}_{suffix}", weight=weight, **new)]


def chosen_leaves(space: InputSpace, leaf: Leaves, *, who: str) -> Mapping[str, Leaf]:
    """The declarations of the leaves to act on.

    Raises:
        NoEffectError: the task declares no leaf.
        InputError: a leaf that the task does not declare.
    """
    if not space.leaves:
        raise NoEffectError("the task declares no leaf that could be perturbed", where=who,
                            fix="declare one in Task(space=...), or use a method with a `tap`")  # fmt: skip
    if leaf is None:
        return space.leaves
    wanted = [leaf] if isinstance(leaf, str) else list(leaf)
    if unknown := [path for path in wanted if path not in space.leaves]:
        raise InputError(f"leaf {unknown[0]!r} is not in the task's input space", where=who,
                         fix=f"one of {sorted(space.leaves)}")  # fmt: skip
    return {path: space.leaves[path] for path in wanted}


def only_leaf(space: InputSpace, leaf: str | None, *, who: str) -> tuple[str, Leaf]:
    """Path and declaration of the one leaf to act on.

    Raises:
        InputError: the task declares several and none is named, or it does not declare the one that is.
    """
    leaves = chosen_leaves(space, leaf, who=who)
    if len(leaves) != 1:
        raise InputError(f"the task declares several leaves {sorted(leaves)}", where=who, fix="name one in `leaf`")
    return next(iter(leaves.items()))


def attacked(
    attack: Attack, loss: Callable[[tuple[Outputs, ...]], Tensor], views: tuple[Batch, ...], step: Step, *,
    leaf: Leaves, bn_during_attack: BNDuringAttack, generator: Generator, who: str,
    call: Mapping[str, Any] | None = None, report: dict[str, Tensor] | None = None,
) -> tuple[Batch, ...]:  # fmt: skip
    """The views with their leaves perturbed, jointly, to raise ``loss`` of the outputs of all views.

    ``call`` are keywords of the model's call, as in `Term.call`.
    """
    leaves = chosen_leaves(step.task.space, leaf, who=who)
    forward, model, call = step.task.forward, step.model, call or {}
    single = len(views) == 1
    whole = views[0] if single else views
    if not single:
        leaves = {f"{i}.{path}": leaf for i in range(len(views)) for path, leaf in leaves.items()}
        attack = _budgets_by_view(attack, leaves)

    def moved(values: Mapping[str, Tensor]) -> tuple[Batch, ...]:
        found = whole
        for path, value in values.items():
            found = with_leaf(found, path, value)
        return (found,) if single else found

    def loss_at(values: Mapping[str, Tensor]) -> Tensor:
        return loss(tuple([forward(model, view, **call) for view in moved(values)]))

    clean = {path: get_leaf(whole, path) for path in leaves}
    return moved(perturb(attack, loss_at, clean, leaves, generator, model, bn_during_attack, report))


def _budgets_by_view(attack: Any, keys: Iterable[str]) -> Any:
    """The attack with budgets that were given by leaf path given by view and leaf path."""
    if not isinstance(attack.eps, Mapping):
        return attack
    return replace(attack, eps={key: attack.eps[_path(key)] for key in keys if _path(key) in attack.eps})


def _path(key: str) -> str:
    return key.partition(".")[2]
