"""RegMixup: a mixup term beside the clean one, not in its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from holdfast.core.contracts import Step, Term
from holdfast.core.errors import InputError
from holdfast.methods.mixing import blended_term
from holdfast.methods.rewriting import rewritten

__all__ = ["RegMixup"]


@dataclass(frozen=True, kw_only=True)
class RegMixup:
    r"""Add a term on mixed inputs to the clean one.

    Equation: ``L(x, y) + weight * [lam L(x_mix, y) + (1 - lam) L(x_mix, y_p)]``, ``x_mix = lam x + (1 - lam) x_p``,
    one ``lam ~ Beta(alpha, alpha)`` and one permutation ``p`` for each batch. All perturbable leaves are mixed.

    The published code takes the mean of the two losses over one joined batch, which halves the step's scale; here the
    paper's sum is the default. A task with ``target_mix`` mixes targets, any other task mixes losses.

    Args:
        alpha: both parameters of the Beta. Default 10; the paper uses 20 for CIFAR-10 and 10 for CIFAR-100, so that
            ``lam`` is near one half, where plain mixup uses at most 0.4.
        weight: factor eta of the mixed term. Default 1.
        joined: run clean and mixed inputs in one forward, so that BatchNorm sees both, as the published code does.
            It saves no time. Default False.
        on: name of the term to mix. Default ``"clean"``.

    Raises:
        NoEffectError: no term is named ``on``. ClashError: it is crafted.
        InputError: the term compares several views; a setting out of range.

    Paper: Pinto et al., NeurIPS 2022, equation 5.
    """

    alpha: float = 10.0
    weight: float = 1.0
    joined: bool = False
    on: str = "clean"

    clashes: ClassVar[Mapping[str, str]] = {
        "mixup": "it takes the clean term away that RegMixup needs",
        "cutmix": "it takes the clean term away that RegMixup needs",
    }

    def __post_init__(self) -> None:
        if self.alpha <= 0 or self.weight < 0:
            raise InputError(f"alpha {self.alpha}, weight {self.weight}", where="RegMixup", fix="use positive values")

    def rewrite(self, terms: list[Term], step: Step) -> list[Term]:
        """The terms and, after the mixed one, its mixture ``regmixup``."""
        return rewritten(terms, (self.on,), lambda term: [term, self._mixed(term, step)], who="RegMixup")

    def _mixed(self, term: Term, step: Step) -> Term:
        joins = term.name if self.joined else None
        return blended_term(term, step, alpha=self.alpha, who="RegMixup", name="regmixup",
                            weight=self.weight * term.weight, joins=joins)  # fmt: skip

    def passes(self) -> tuple[float, float]:
        """A second forward and backward."""
        return 1.0, 1.0
