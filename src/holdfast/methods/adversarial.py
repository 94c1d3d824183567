"""Adversarial training: terms on inputs that an attack has moved to raise those terms' own loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from holdfast.attacks.fgsm import FGSM
from holdfast.attacks.samples import uniform
from holdfast.attacks.seal import BNDuringAttack
from holdfast.core.contracts import Attack, Step, Surgery, Term
from holdfast.core.errors import InputError
from holdfast.core.space import get_leaf
from holdfast.methods.inner import tap_delta
from holdfast.methods.rewriting import Leaves, attacked, chosen_leaves, rewritten, split
from holdfast.surgery.taps import Taps

__all__ = ["COUNT_EVERY", "Adversarial"]

COUNT_EVERY = 64
"""Steps between two counts of the samples without a gradient, in ``state["zero_gradient"]``."""


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
        share_of: what ``clean_weight`` is a share of. ``"loss"`` (default): clean and attacked copies of the batch
            with weights ``w`` and ``1 - w``. ``"samples"``: each sample is clean with probability ``w``, all in one
            forward; the same expected loss for about two thirds of the price, and BatchNorm sees the mixture.
        bn_during_attack: ``"eval"`` (default), ``"train"`` or ``"frozen"``, see `holdfast.attacks.seal.perturb`.
        leaf: path or paths of the leaves to attack; None (default) attacks all leaves of the task's space jointly.
        tap: attack an inner tensor instead, e.g. ``"embedding"``: the output of that layer, or with ``:input`` its
            first input. It has no range, and its unit is 1. The model must be prepared.

    Raises:
        NoEffectError: no term has a name in ``on``, or the loss does not depend on what is attacked.
        ClashError: the term is crafted already.
        InputError: a share outside 0..1, a leaf that the task does not declare, a tap that the model does not have.

    Papers: Goodfellow et al., ICLR 2015, section 6; Madry et al., ICLR 2018, equation 2.1.
    """

    attack: Attack = field(default_factory=FGSM)
    on: Sequence[str] = ("clean",)
    clean_weight: float = 0.5
    share_of: Literal["loss", "samples"] = "loss"
    bn_during_attack: BNDuringAttack = "eval"
    leaf: Leaves = None
    tap: str = ""

    clashes: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        if not 0 <= self.clean_weight <= 1:
            raise InputError(f"clean_weight {self.clean_weight} is no share", where="Adversarial", fix="use 0 to 1")
        if self.tap and self.leaf is not None:
            raise InputError("leaf and tap are both given", where="Adversarial", fix="attack one or the other")

    @property
    def surgery(self) -> tuple[Surgery, ...]:
        """The tap, where one is attacked."""
        return (Taps(layers=(self.tap,)),) if self.tap else ()

    def rewrite(self, terms: list[Term], step: Step) -> list[Term]:
        """Every named term split into its clean and its attacked share."""
        if step.index % COUNT_EVERY == 0:
            step.state.pop("zero_gradient", None)
        return rewritten(terms, self.on, lambda term: self._attacked(term, step), who="Adversarial")

    def _attacked(self, term: Term, step: Step) -> list[Term]:
        if self.clean_weight == 1:
            return [term]
        seen: dict[str, Any] | None = {} if step.index % COUNT_EVERY == 0 else None
        new = self._inner(term, step, seen) if self.tap else self._outer(term, step, seen)
        _count(step.state, seen or {})
        if self.share_of == "samples":
            return [term.changed(crafted=True, **new)]
        return split(term, suffix="adversarial", clean_weight=self.clean_weight, crafted=True, **new)

    def _outer(self, term: Term, step: Step, seen: dict[str, Any] | None) -> dict[str, Any]:
        """Attacked views."""
        views = attacked(
            self.attack, term.loss, term.views, step, leaf=self.leaf, bn_during_attack=self.bn_during_attack,
            generator=step.draw(f"adversarial.{term.name}"), who="Adversarial", call=term.call, report=seen,
        )  # fmt: skip
        if self.share_of == "loss":
            return {"views": views}
        leaves = chosen_leaves(step.task.space, self.leaf, who="Adversarial")
        stays = self._stays(get_leaf(views[0], next(iter(leaves))), step)
        mixed = (
            {path: _choose(stays, get_leaf(before, path), get_leaf(after, path)) for path in leaves}
            for before, after in zip(term.views, views, strict=True)
        )
        return {"views": tuple(step.task.space.replace(*pair) for pair in zip(views, mixed, strict=True))}

    def _inner(self, term: Term, step: Step, seen: dict[str, Any] | None) -> dict[str, Any]:
        """An attacked tap."""
        delta = tap_delta(self.attack, term, step, tap=self.tap, bn_during_attack=self.bn_during_attack,
                          generator=step.draw(f"adversarial.{term.name}"), report=seen)  # fmt: skip
        if self.share_of == "samples":
            delta = _choose(self._stays(delta, step), torch.zeros_like(delta), delta)
        return {"call": {**term.call, "add": {self.tap: delta}}}

    def _stays(self, x: Tensor, step: Step) -> Tensor:
        """1.0 for the samples that stay clean and 0.0 for the others, (B,)."""
        draws = uniform((len(x),), step.draw("adversarial.stays"), like=x)
        return (draws < self.clean_weight).to(x.dtype)

    def passes(self) -> tuple[float, float]:
        """The passes of the attack, and a second forward and backward where a clean copy is kept."""
        forwards, backwards = self.attack.passes()
        second = 1.0 if 0 < self.clean_weight < 1 and self.share_of == "loss" else 0.0
        return (0.0, 0.0) if self.clean_weight == 1 else (forwards + second, backwards + second)


def _choose(stays: Tensor, before: Tensor, after: Tensor) -> Tensor:
    # Exact at both ends, and much faster on a CPU than torch.where.
    return torch.lerp(after, before, stays.to(before.dtype).view(-1, *([1] * (before.ndim - 1))))


def _count(state: dict[str, Any], seen: Mapping[str, Tensor]) -> None:
    """Add the samples without a gradient to the step's count, on the device they are on."""
    for name, count in seen.items():
        state[name] = state[name] + count if name in state else count
