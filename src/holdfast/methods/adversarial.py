"""Adversarial training: terms on inputs that an attack has moved to raise those terms' own loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from holdfast.attacks.fgsm import FGSM
from holdfast.attacks.seal import BNDuringAttack
from holdfast.core.contracts import Attack, Step, Term
from holdfast.core.errors import InputError
from holdfast.methods.rewriting import Leaves, attacked, rewritten, split

__all__ = ["Adversarial"]


@dataclass(frozen=True, kw_only=True)
class Adversarial:
    r"""Train on attacked inputs.

    Equation: ``w L(x) + (1 - w) L(x_adv)``, ``x_adv = argmax_{|x' - x| <= eps} L(x')`` for each term named in
    ``on``, against that term's own loss, so it works for any task. ``w`` 0 is training on ``x_adv`` alone (Madry),
    ``w`` 0.5 the half-and-half form of the FGSM paper. With ``w`` 1 nothing is attacked.

    Args:
        attack: a plug-in of ``attacks/``. Default ``FGSM(eps=0.5)``: half a grey level of an 8-bit camera.
        on: names of the terms to attack. Default ``("clean",)``.
        clean_weight: share ``w`` of the term that stays clean, 0 to 1. Default 0.5.
        bn_during_attack: ``"eval"`` (default), ``"train"`` or ``"frozen"``, see `holdfast.attacks.seal.perturb`.
        leaf: path or paths of the leaves to attack; None (default) attacks all leaves of the task's space jointly.

    Raises:
        NoEffectError: no term has a name in ``on``, or the loss does not depend on the leaf.
        ClashError: the term is crafted already.
        InputError: a share outside 0..1, a leaf that the task does not declare.

    Papers: Goodfellow et al., ICLR 2015, section 6; Madry et al., ICLR 2018, equation 2.1.
    """

    attack: Attack = field(default_factory=FGSM)
    on: Sequence[str] = ("clean",)
    clean_weight: float = 0.5
    bn_during_attack: BNDuringAttack = "eval"
    leaf: Leaves = None

    clashes: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        if not 0 <= self.clean_weight <= 1:
            raise InputError(f"clean_weight {self.clean_weight} is no share", where="Adversarial", fix="use 0 to 1")

    def rewrite(self, terms: list[Term], step: Step) -> list[Term]:
        """Every named term split into its clean and its attacked share."""
        step.state.pop("zero_gradient", None)
        return rewritten(terms, self.on, lambda term: self._attacked(term, step), who="Adversarial")

    def _attacked(self, term: Term, step: Step) -> list[Term]:
        if self.clean_weight == 1:
            return [term]
        seen: dict[str, Any] = {}
        views = attacked(
            self.attack, term.loss, term.views, step, leaf=self.leaf, bn_during_attack=self.bn_during_attack,
            generator=step.draw(f"adversarial.{term.name}"), who="Adversarial", report=seen,
        )  # fmt: skip
        _count(step.state, seen)
        return split(term, views, suffix="adversarial", clean_weight=self.clean_weight, crafted=True)

    def passes(self) -> tuple[float, float]:
        """The passes of the attack, and a second forward and backward where a clean share is kept."""
        forwards, backwards = self.attack.passes()
        second = 1.0 if 0 < self.clean_weight < 1 else 0.0
        return (0.0, 0.0) if self.clean_weight == 1 else (forwards + second, backwards + second)


def _count(state: dict[str, Any], seen: Mapping[str, Tensor]) -> None:
    """Add the samples without a gradient to the step's count, on the device they are on."""
    for name, count in seen.items():
        state[name] = state[name] + count if name in state else count
