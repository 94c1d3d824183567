"""VAT: outputs must not change along the direction in which they change most; no labels needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from holdfast.attacks.power_iteration import PowerIteration
from holdfast.attacks.seal import BNDuringAttack
from holdfast.core.contracts import Attack, Step, Term
from holdfast.core.errors import InputError
from holdfast.methods.consistency import divergence_term, diverging_view, unlabelled_of
from holdfast.methods.rewriting import Leaves

__all__ = ["VAT"]


@dataclass(frozen=True, kw_only=True)
class VAT:
    r"""Add the divergence at the virtual adversarial input.

    Equation: ``L(x, y) + weight * D(stopgrad f(x), f(x + r))``, ``r`` by one power iteration, with the task's
    divergence ``D`` (KL for logits).

    Args:
        weight: factor of the divergence. Default 1, as in the paper.
        attack: finds ``r``. Default ``PowerIteration(eps=255)``: length 1 for an image in 0..1.
        data: on which batch: ``"labelled"`` (default), ``"unlabelled"`` or ``"both"``.
        bn_during_attack: default ``"eval"``.
        leaf: path or paths of the leaves to perturb; None (default) for all.

    Raises:
        InputError: the task has no divergence; an unlabelled stream is asked for and missing; a negative weight.

    Paper: Miyato et al., TPAMI 2019, equations 5 to 8.
    """

    weight: float = 1.0
    attack: Attack = field(default_factory=PowerIteration)
    data: Literal["labelled", "unlabelled", "both"] = "labelled"
    bn_during_attack: BNDuringAttack = "eval"
    leaf: Leaves = None

    clashes: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        if self.weight < 0 or self.data not in ("labelled", "unlabelled", "both"):
            raise InputError(f"weight {self.weight}, data {self.data!r}", where="VAT",
                             fix="use a weight of 0 or more and labelled, unlabelled or both")  # fmt: skip

    @property
    def uses_unlabelled(self) -> bool:
        """Unless ``data`` is ``"labelled"``."""
        return self.data != "labelled"

    def rewrite(self, terms: list[Term], step: Step) -> list[Term]:
        """The terms and one divergence for each batch it is asked on."""
        views = {}
        if self.data != "unlabelled":
            views["vat"] = step.batch
        if self.data != "labelled":
            views["vat_unlabelled"] = unlabelled_of(step, who="VAT")
        return [*terms, *(self._divergence(name, view, step) for name, view in views.items())]

    def _divergence(self, name: str, view: object, step: Step) -> Term:
        other = diverging_view(self.attack, view, step, name=name, leaf=self.leaf,
                               bn_during_attack=self.bn_during_attack)  # fmt: skip
        return divergence_term(name, view, other, step, weight=self.weight, hold_reference=True)

    def passes(self) -> tuple[float, float]:
        """Per batch: the attack, its reference and a training pass; the unlabelled clean forward has no backward."""
        forwards, backwards = self.attack.passes()
        batches = 2.0 if self.data == "both" else 1.0
        own = 0.0 if self.data == "labelled" else 1.0  # the labelled clean forward is shared
        return batches * (forwards + 2.0) + own, batches * (backwards + 1.0)
