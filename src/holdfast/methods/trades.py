"""TRADES: the clean loss, and how far an attack can pull the outputs away from the clean ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from holdfast.attacks.pgd import PGD
from holdfast.attacks.seal import BNDuringAttack
from holdfast.core.contracts import Attack, Step, Term
from holdfast.core.errors import InputError
from holdfast.methods.consistency import divergence_term, diverging_view
from holdfast.methods.mixing import single_view
from holdfast.methods.rewriting import Leaves, rewritten

__all__ = ["TRADES"]


@dataclass(frozen=True, kw_only=True)
class TRADES:
    r"""Add ``beta`` times the worst divergence from the clean outputs.

    Equation: ``L(x, y) + beta * max_{|x' - x| <= eps} D(f(x), f(x'))`` with the task's divergence ``D`` (KL for
    logits). Gradients flow through both sides. The regulariser needs no label.

    The published code starts its attack at a small normal noise about ``x`` (sd 0.001); here PGD starts uniformly in
    the ball. At ``x`` itself the divergence has no gradient, so the attack must start elsewhere.

    Args:
        beta: weight of the divergence. Default 6 (CIFAR); 1 for MNIST at eps 0.3. Larger is more robust, less clean.
        attack: with a random start. Default ``PGD(eps=8, alpha=2, steps=10)``.
        bn_during_attack: default ``"eval"``, as in the published code.
        leaf: path or paths of the leaves to attack; None (default) for all.
        on: name of the term whose view is the clean one. Default ``"clean"``.

    Raises:
        InputError: the task has no divergence, or beta is negative.
        NoEffectError: no term is named ``on``. ClashError: it is crafted.

    Paper: Zhang et al., ICML 2019, equation 5.
    """

    beta: float = 6.0
    attack: Attack = field(default_factory=lambda: PGD(eps=8.0, alpha=2.0, steps=10))
    bn_during_attack: BNDuringAttack = "eval"
    leaf: Leaves = None
    on: str = "clean"

    clashes: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        if self.beta < 0:
            raise InputError(f"beta {self.beta} is negative", where="TRADES", fix="use 1 to 10")

    def rewrite(self, terms: list[Term], step: Step) -> list[Term]:
        """The terms and, after the clean one, the divergence ``trades``; the clean forward is shared."""
        return rewritten(terms, (self.on,), lambda term: [term, self._divergence(term, step)], who="TRADES")

    def _divergence(self, term: Term, step: Step) -> Term:
        view = single_view(term, who="TRADES")
        other = diverging_view(self.attack, view, step, name="trades", leaf=self.leaf,
                               bn_during_attack=self.bn_during_attack)  # fmt: skip
        return divergence_term("trades", view, other, step, weight=self.beta * term.weight, hold_reference=False)

    def passes(self) -> tuple[float, float]:
        """The attack, the reference it is measured from, and the second training pass."""
        forwards, backwards = self.attack.passes()
        return forwards + 2.0, backwards + 1.0
