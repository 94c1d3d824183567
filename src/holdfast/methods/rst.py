"""RST: self-training on a teacher's labels with a consistency regulariser, the neighbour of UAT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from holdfast.attacks.pgd import PGD
from holdfast.attacks.seal import BNDuringAttack
from holdfast.core.contracts import Attack, Step, Term
from holdfast.core.errors import InputError
from holdfast.methods.consistency import divergence_term, diverging_view, unlabelled_of
from holdfast.methods.rewriting import Leaves
from holdfast.methods.teachers import pseudo_labelled

__all__ = ["RST"]


@dataclass(frozen=True, kw_only=True)
class RST:
    r"""Robust self-training on the unlabelled batch.

    Equation: ``weight * [L(f(x), y^(x)) + beta * max_{x'} D(f(x), f(x'))]``, ``y^`` from a fixed teacher; unlike UAT-FT
    the labels are learned on clean inputs, and gradients of the divergence flow through both sides. The published
    recipe adds the same divergence on the labelled batch: list ``trades`` as well.

    Args:
        weight: of the unlabelled part. Default 1.
        beta: weight of the divergence. Default 6.
        teacher: weights of the task's model, trained on the labels alone.
        attack: default ``PGD(eps=8, alpha=2, steps=10)``.
        bn_during_attack: default ``"eval"``.
        leaf: path or paths of the leaves to attack; None (default) for all.

    Raises:
        InputError: no unlabelled stream, no teacher, a task without divergence or pseudo_label, a negative weight.

    Paper: Carmon et al., NeurIPS 2019, section 3.
    """

    weight: float = 1.0
    beta: float = 6.0
    teacher: str = ""
    attack: Attack = field(default_factory=lambda: PGD(eps=8.0, alpha=2.0, steps=10))
    bn_during_attack: BNDuringAttack = "eval"
    leaf: Leaves = None

    clashes: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        if self.weight < 0 or self.beta < 0:
            raise InputError(f"weight {self.weight}, beta {self.beta}", where="RST", fix="use no negative weights")

    @property
    def uses_unlabelled(self) -> bool:
        """It reads the unlabelled stream."""
        return True

    @property
    def files(self) -> tuple[str, ...]:
        """The teacher's weights."""
        return (self.teacher,) if self.teacher else ()

    def rewrite(self, terms: list[Term], step: Step) -> list[Term]:
        """The terms, the teacher's labels on clean unlabelled inputs, and the divergence there."""
        view = unlabelled_of(step, who="RST")
        labelled = pseudo_labelled(view, self.teacher, step, who="RST")
        other = diverging_view(self.attack, view, step, name="rst", leaf=self.leaf,
                               bn_during_attack=self.bn_during_attack)  # fmt: skip
        taught = Term(name="rst_teacher", views=(view,), loss=lambda outputs: step.task.loss(outputs[0], labelled),
                      weight=self.weight)  # fmt: skip
        return [*terms, taught, divergence_term("rst", view, other, step, weight=self.weight * self.beta,
                                                hold_reference=False)]  # fmt: skip

    def passes(self) -> tuple[float, float]:
        """The teacher, the attack and its reference, and two training passes."""
        forwards, backwards = self.attack.passes()
        return forwards + 4.0, backwards + 2.0
