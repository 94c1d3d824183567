"""YOPO: many steps of an attack for one pass through the whole network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from holdfast.attacks.fgsm import FGSM
from holdfast.attacks.seal import Ball, crafting, input_gradient, modules_of, trained_in
from holdfast.core.contracts import Attack, Batch, Remedy, Step, Surgery, Term
from holdfast.core.errors import InputError
from holdfast.core.space import get_leaf, with_leaf
from holdfast.methods.handover import EVALUATED_TWICE, Accumulated, passed_on, shared_masks
from holdfast.methods.inner import inner_model, tap_value
from holdfast.methods.mixing import single_view
from holdfast.methods.rewriting import only_leaf, rewritten
from holdfast.surgery.tapped import submodule
from holdfast.surgery.taps import Taps

__all__ = ["YOPO"]


@dataclass(frozen=True, kw_only=True)
class YOPO:
    r"""You only propagate once: YOPO-K-n.

    Equation: K times, a full pass at ``x + d`` gives the weight gradient and ``p = dL / d f_1(x + d)``; then n times
    ``d <- project(d + alpha sign(grad_d <f_1(x + d), p>))`` through the first layer ``f_1`` alone. The weight gradient
    is the mean over the K passes; ``d`` starts uniformly in the ball.

    The published code adds the K gradients and divides the learning rate by K instead.
    Of a model under `torch.compile`, K - 1 passes are made a second time, for ``p``.

    Args:
        first: dotted name of the first layer, which must take the attacked leaf itself and nothing else.
        eps: budget in units of the leaf. Default 8.
        alpha: step in units. Default 2.
        passes_through: K. Default 5.
        steps: n. Default 3.
        leaf: path of the leaf; None (default) when the task declares a single one.
        on: name of the term. Default ``"clean"``.

    Raises:
        InputError: the layer does not take the leaf; several leaves; a setting out of range.
        NoEffectError: no term is named ``on``. ClashError: it is crafted.

    Paper: Zhang et al., NeurIPS 2019, algorithm 1.
    """

    first: str = ""
    eps: float = 8.0
    alpha: float = 2.0
    passes_through: int = 5
    steps: int = 3
    leaf: str | None = None
    on: str = "clean"

    clashes: ClassVar[Mapping[str, str]] = {
        "freeat": "both compute weight gradients on the way",
        "freelb": "both compute weight gradients on the way",
        **EVALUATED_TWICE,
    }

    def __post_init__(self) -> None:
        if min(self.passes_through, self.steps) < 1 or min(self.eps, self.alpha) < 0:
            raise InputError(f"K {self.passes_through}, n {self.steps}, eps {self.eps}, alpha {self.alpha}",
                             where="YOPO", fix="use at least one step and no negative sizes")  # fmt: skip

    @property
    def surgery(self) -> tuple[Surgery, ...]:
        """A tap on the first layer."""
        return (Taps(layers=(self.first,) if self.first else ()),)

    @property
    def attack(self) -> Attack:
        """One step to its budget, for those who watch it."""
        return FGSM(eps=self.eps)

    def gentler(self, remedy: Remedy) -> YOPO:
        """Half the step, or twice as many."""
        return replace(self, alpha=self.alpha / 2) if remedy == "halve" else replace(self, steps=2 * self.steps)

    def rewrite(self, terms: list[Term], step: Step) -> list[Term]:
        """The terms with the named one at the last perturbation, and ``_earlier`` with what the others gave."""
        return rewritten(terms, (self.on,), lambda term: self._trained(term, step), who="YOPO")

    def _trained(self, term: Term, step: Step) -> list[Term]:
        view, (path, leaf) = single_view(term, who="YOPO"), only_leaf(step.task.space, self.leaf, who="YOPO")
        x = get_leaf(view, path)
        ball = Ball.around(x, eps=self.eps, norm="linf", leaf=leaf)
        total, z = Accumulated(trained_in(modules_of(step.model))), ball.start(step.draw("yopo"))
        rewind = shared_masks(x.device)
        if step.index == 0:
            self._check(step, x, tap_value(term, step, tap=self.first))
        for _ in range(self.passes_through - 1):
            moved = with_leaf(view, path, z)
            outputs, read = step.forward(moved, **{**term.call, "taps": (self.first,)})
            hidden = read[self.first]
            [adjoint] = total.add(term.loss((outputs,)), hidden, weight=1 / self.passes_through)
            z = self._inner(step, ball, z, self._adjoint(step, term, moved, hidden) if adjoint is None else adjoint)
            rewind()
        last = term.loss((step.forward(with_leaf(view, path, z), **term.call),))
        return passed_on(term, total, last, weight=1 / self.passes_through)

    def _adjoint(self, step: Step, term: Term, moved: Batch, hidden: Tensor) -> Tensor | None:
        """The adjoint by a pass of its own: what a compiled model reads at a tap is no part of its graph."""
        added = torch.zeros_like(hidden).requires_grad_()
        with crafting(step.model, "train"):
            loss = term.loss((step.forward(moved, **{**term.call, "add": {self.first: added}}),))
            [adjoint] = torch.autograd.grad(loss.sum(), added, allow_unused=True)
        return adjoint

    def _inner(self, step: Step, ball: Ball, z: Tensor, adjoint: Tensor | None) -> Tensor:
        """Ascent steps through the first layer, whose output is weighed with the adjoint."""
        if adjoint is None:
            raise InputError(f"the loss does not depend on {self.first!r}", where="YOPO", fix="name the first layer")
        layer = submodule(inner_model(step, who="YOPO"), self.first)
        with crafting(layer, "frozen"):
            for _ in range(self.steps):
                gradient = input_gradient(lambda moved: (layer(moved) * adjoint).sum(), z)
                z = ball.ascend(z, gradient, ball.unit * self.alpha)
        return z

    def _check(self, step: Step, x: Tensor, hidden: Tensor) -> None:
        """Whether the layer, in eval mode, makes of the leaf what is at the tap."""
        layer = submodule(inner_model(step, who="YOPO"), self.first)
        try:
            with torch.no_grad(), crafting(layer):
                same = torch.allclose(layer(x), hidden, rtol=1e-3, atol=1e-4)
        except (RuntimeError, TypeError):
            same = False
        if not same:
            raise InputError(f"{self.first!r} does not take the attacked leaf itself", where="YOPO",
                             fix="name the layer that the model calls first, before any normalisation")  # fmt: skip

    def passes(self) -> tuple[float, float]:
        """K forwards and backwards in all; the first layer's own passes are not counted."""
        return self.passes_through - 1.0, self.passes_through - 1.0
