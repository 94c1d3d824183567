"""Input noise: train on inputs with random noise, the control that every attack has to beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor

from holdfast.attacks.samples import uniform
from holdfast.core.contracts import Step, Term
from holdfast.core.errors import InputError
from holdfast.core.space import Leaf, get_leaf, with_leaf
from holdfast.methods.rewriting import Leaves, chosen_leaves, rewritten, split

__all__ = ["InputNoise", "noisy"]


@dataclass(frozen=True, kw_only=True)
class InputNoise:
    r"""Add noise to a term's inputs, clipped to the valid range.

    Equation: ``x' = clip(x + n)``; normal: ``n ~ N(0, size^2)``; uniform: ``n ~ U(-size, size)``, the random part of an
    L-infinity attack of the same budget. One size for each sample, drawn from ``U(0, size)`` when ``varied``.

    Args:
        size: in units of the leaf. Default 4. Recommended: what the sensor has, or an attack's eps as its control.
        distribution: ``"normal"`` (default) or ``"uniform"``.
        varied: draw the size for each sample. Default True.
        on: names of the terms. Default ``("clean",)``.
        clean_weight: share of the term that stays as it is, 0 to 1. Default 0.
        leaf: path or paths; None (default) for all leaves.

    Raises:
        NoEffectError: no term has a name in ``on``. ClashError: it is crafted already.
        InputError: a negative size or a share outside 0..1.
    """

    size: float = 4.0
    distribution: Literal["normal", "uniform"] = "normal"
    varied: bool = True
    on: Sequence[str] = ("clean",)
    clean_weight: float = 0.0
    leaf: Leaves = None

    clashes: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        if self.size < 0 or not 0 <= self.clean_weight <= 1 or self.distribution not in ("normal", "uniform"):
            raise InputError(
                f"size {self.size}, clean_weight {self.clean_weight}, distribution {self.distribution!r}",
                where="InputNoise", fix="use a size of 0 or more, a share of 0 to 1, normal or uniform",
            )  # fmt: skip

    def rewrite(self, terms: list[Term], step: Step) -> list[Term]:
        """Every named term on noisy inputs, beside its own where a clean share is kept."""
        return rewritten(terms, self.on, lambda term: self._changed(term, step), who="InputNoise")

    def _changed(self, term: Term, step: Step) -> list[Term]:
        if self.clean_weight == 1:
            return [term]
        draw, views = step.draw(f"input_noise.{term.name}"), list(term.views)
        for path, leaf in chosen_leaves(step.task.space, self.leaf, who="InputNoise").items():
            for i, view in enumerate(views):
                x = noisy(get_leaf(view, path), leaf, draw, size=self.size, distribution=self.distribution,
                          varied=self.varied)  # fmt: skip
                views[i] = with_leaf(view, path, x)
        return split(term, suffix="noise", clean_weight=self.clean_weight, views=tuple(views))

    def passes(self) -> tuple[float, float]:
        """None, or a second forward and backward where a clean share is kept."""
        return (1.0, 1.0) if 0 < self.clean_weight < 1 else (0.0, 0.0)


def noisy(x: Tensor, leaf: Leaf, draw: Generator, *, size: float, distribution: str, varied: bool) -> Tensor:
    """``x``, float (B, ...) in stored values, with noise of ``size`` units, clipped; see `InputNoise`."""
    sizes: Any = size * leaf.budget(1.0, x)
    if varied:
        sizes = sizes * uniform((len(x), *([1] * (x.ndim - 1))), draw, like=x)
    if distribution == "uniform":
        return leaf.clip(x + sizes * uniform(x.shape, draw, like=x, low=-1.0))
    return leaf.clip(x + sizes * torch.randn(x.shape, generator=draw, device=draw.device).to(x))
