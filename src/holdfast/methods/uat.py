"""UAT: adversarial training on unlabelled data, by consistency (OT), by a teacher's labels (FT), or by both (++)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from holdfast.attacks.pgd import PGD
from holdfast.attacks.seal import BNDuringAttack, crafting
from holdfast.core.contracts import Attack, Batch, Outputs, Step, Term
from holdfast.core.errors import InputError
from holdfast.core.space import first_tensor
from holdfast.methods.consistency import divergence_of, divergence_term, diverging_view, unlabelled_of
from holdfast.methods.rewriting import Leaves, attacked
from holdfast.methods.teachers import pseudo_labelled

__all__ = ["UAT"]

Variant: TypeAlias = Literal["ot", "ft", "++"]
_Loss: TypeAlias = Callable[[tuple[Outputs, ...]], Tensor]


@dataclass(frozen=True, kw_only=True)
class UAT:
    r"""Unsupervised adversarial training: robustness needs more data, not more labels.

    Equations, ``x'`` in the ball about ``x``, each a mean over the batch:
    OT ``= max_{x'} D(stopgrad f(x), f(x'))`` over labelled and unlabelled ``x``;
    FT ``= max_{x'} L(f(x'), y^(x))`` over unlabelled ``x``, ``y^`` from a fixed teacher;
    ``++`` = FT + weight * OT on the unlabelled batch, sharing one ``x'``, and weight * OT on the labelled one.

    The terms stand beside what the recipe does with the labelled batch: clean for OT; for FT and ++ the paper attacks
    it with its true labels, so list ``adversarial`` with ``clean_weight: 0`` as well.

    Args:
        variant: ``"ot"``, ``"ft"`` or ``"++"`` (default).
        weight: lambda, the factor of OT. Default 5 (CIFAR-10 in the paper).
        ramp_steps: steps over which ``weight`` grows linearly from 0. OT has a trivial, constant solution when its
            weight is large early. Default 0.
        teacher: weights of the task's model, trained on the labels alone; for FT and ++.
        attack: default ``PGD(eps=8, alpha=2, steps=10)``.
        bn_during_attack: default ``"eval"``.
        joined: run the unlabelled views in one forward with the clean term. Default False.
        leaf: path or paths of the leaves to attack; None (default) for all.

    Raises:
        InputError: no unlabelled stream, no teacher where one is needed, a task without divergence or pseudo_label.

    Paper: Alayrac et al., NeurIPS 2019, equations 3 to 5.
    """

    variant: Variant = "++"
    weight: float = 5.0
    ramp_steps: int = 0
    teacher: str = ""
    attack: Attack = field(default_factory=lambda: PGD(eps=8.0, alpha=2.0, steps=10))
    bn_during_attack: BNDuringAttack = "eval"
    joined: bool = False
    leaf: Leaves = None

    clashes: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        if self.variant not in ("ot", "ft", "++") or self.weight < 0 or self.ramp_steps < 0:
            raise InputError(f"variant {self.variant!r}, weight {self.weight}, ramp_steps {self.ramp_steps}",
                             where="UAT", fix="use ot, ft or ++, and no negative numbers")  # fmt: skip

    @property
    def uses_unlabelled(self) -> bool:
        """It reads the unlabelled stream."""
        return True

    @property
    def files(self) -> tuple[str, ...]:
        """The teacher's weights."""
        return (self.teacher,) if self.teacher else ()

    def rewrite(self, terms: list[Term], step: Step) -> list[Term]:
        """The terms and those on the unlabelled batch."""
        return [*terms, *self._added(step)]

    def _added(self, step: Step) -> Iterator[Term]:
        unlabelled = unlabelled_of(step, who="UAT")
        joins = "clean" if self.joined else None
        ramp = min(1.0, (step.index + 1) / self.ramp_steps) if self.ramp_steps else 1.0
        weight = self.weight * ramp
        share = _size(unlabelled) / (_size(unlabelled) + _size(step.batch))
        if self.variant == "ot":
            other = self._diverging("uat_unlabelled", unlabelled, step)
            yield divergence_term("uat_unlabelled", unlabelled, other, step, weight=weight * share,
                                  hold_reference=True, joins=joins)  # fmt: skip
        else:
            yield from self._taught(unlabelled, step, weight * share, joins)
        if self.variant != "ft" and weight * (1 - share) > 0:
            other = self._diverging("uat_labelled", step.batch, step)
            yield divergence_term("uat_labelled", step.batch, other, step, weight=weight * (1 - share),
                                  hold_reference=True)  # fmt: skip

    def _diverging(self, name: str, view: Batch, step: Step) -> Batch:
        return diverging_view(self.attack, view, step, name=name, leaf=self.leaf,
                              bn_during_attack=self.bn_during_attack)  # fmt: skip

    def _taught(self, view: Batch, step: Step, weight: float, joins: str | None) -> Iterator[Term]:
        """FT, and for ++ the consistency at the same attacked inputs."""
        labelled = pseudo_labelled(view, self.teacher, step, who="UAT")
        consistent = self.variant == "++"
        against = self._both(view, labelled, step, weight) if consistent else _supervised(labelled, step)
        [other] = attacked(
            self.attack, against, (view,), step, leaf=self.leaf, bn_during_attack=self.bn_during_attack,
            generator=step.draw("uat_teacher"), who="UAT",
        )  # fmt: skip
        yield Term(name="uat_teacher", views=(other,), loss=_supervised(labelled, step), crafted=True, joins=joins)
        if consistent:
            yield divergence_term("uat_unlabelled", view, other, step, weight=weight, hold_reference=True, joins=joins)

    def _both(self, view: Batch, labelled: Batch, step: Step, weight: float) -> _Loss:
        """What one ``x'`` has to raise when it serves both losses."""
        divergence, supervised = divergence_of(step, who="UAT"), _supervised(labelled, step)
        with crafting(step.model, self.bn_during_attack), torch.no_grad():
            reference = step.task.forward(step.model, view)
        return lambda outputs: supervised(outputs) + weight * divergence(reference, outputs[0], view)

    def passes(self) -> tuple[float, float]:
        """Attacks, their references, the clean unlabelled forward, the teacher's forward and the training passes."""
        forwards, backwards = self.attack.passes()
        if self.variant == "ft":
            return forwards + 2.0, backwards + 1.0
        taught = 1.0 if self.variant == "++" else 0.0
        return 2 * (forwards + 2.0) + 1.0 + taught, 2 * (backwards + 1.0)


def _supervised(labelled: Batch, step: Step) -> _Loss:
    return lambda outputs: step.task.loss(outputs[0], labelled)


def _size(batch: Batch) -> int:
    return len(first_tensor(batch))
