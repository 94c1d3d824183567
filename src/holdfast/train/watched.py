"""What a guard watches: the method that attacks inputs, the ball of its attack, and gentler forms of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from holdfast.attacks.fgsm import FGSM
from holdfast.attacks.fgsm_rs import FGSMRS
from holdfast.attacks.pgd import PGD
from holdfast.core.contracts import Attack, Remedy, Weakens
from holdfast.core.errors import InputError, NoEffectError

__all__ = ["attack_of", "gentler", "gentler_method", "in_ball_of", "watched"]


def attack_of(method: Any) -> Attack | None:
    """With what a method attacks inputs: its ``attack``; None if it attacks nothing, or an inner tensor."""
    attack = getattr(method, "attack", None)
    return attack if isinstance(attack, Attack) and not getattr(method, "tap", "") else None


def watched(methods: Sequence[Any]) -> tuple[int, Attack]:
    """Where the first method that attacks inputs stands, and its attack.

    Raises:
        NoEffectError: there is none.
    """
    found = ((i, attack) for i, method in enumerate(methods) if (attack := attack_of(method)) is not None)
    first = next(found, None)
    if first is None:
        raise NoEffectError("no method attacks inputs, there is nothing to guard", where="Guard",
                            fix="use it with adversarial, trades, uat or another that does")  # fmt: skip
    return first


def in_ball_of(watched: Attack, attack: Any) -> Attack:
    """The attack with the budget of the one that is watched, counted in the same norm.

    Raises:
        InputError: it works in another norm only.
    """
    budget = {"eps": watched.eps} | ({} if attack.norm == watched.norm else {"norm": watched.norm})
    try:
        changed: Attack = replace(attack, **budget)
        return changed
    except ValueError as error:
        raise InputError(f"{type(attack).__name__} has no norm {watched.norm!r}", where="Guard",
                         fix="give an attack that has, e.g. pgd") from error  # fmt: skip


def gentler_method(method: Any, remedy: Remedy) -> Any:
    """The method with half its attack's step, or with twice as many.

    Raises:
        InputError: no gentler form is known.
    """
    if isinstance(method, Weakens):
        return method.gentler(remedy)
    if "attack" not in (field.name for field in fields(method)):
        raise InputError(f"no gentler form of {type(method).__name__} is known", where="Guard",
                         fix="use a method whose attack is an option of it")  # fmt: skip
    return replace(method, attack=gentler(method.attack, remedy))


def gentler(attack: Any, remedy: Remedy) -> Attack:
    """The attack with half its step, or with two steps for one (twice as many for one of several).

    Raises:
        InputError: no gentler form is known.
    """
    if isinstance(attack, FGSMRS) and remedy == "halve":
        return replace(attack, step=attack.step / 2)
    if isinstance(attack, FGSM | FGSMRS):
        start = isinstance(attack, FGSMRS)
        return PGD(eps=attack.eps, steps=2, norm=attack.norm, random_start=start)
    if isinstance(attack, PGD) and remedy == "halve" and attack.alpha is not None:
        return replace(attack, alpha=attack.alpha / 2)
    if isinstance(attack, PGD):
        return replace(attack, steps=2 * attack.steps)
    raise InputError(
        f"no gentler form of {type(attack).__name__} is known", where="Guard", fix="use fgsm, fgsm_rs or pgd"
    )
