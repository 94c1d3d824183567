"""TrivialAugment: one random operation of random strength on each image, and nothing to tune."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Generator, Tensor

from holdfast.core.contracts import Step, Term
from holdfast.core.errors import InputError
from holdfast.methods.augmentation import allowed_ops, augmented, integers, signs
from holdfast.methods.image_ops import Op, apply_each
from holdfast.methods.rewriting import rewritten, split

__all__ = ["TrivialAugment"]


@dataclass(frozen=True, kw_only=True)
class TrivialAugment:
    r"""Replace a term's images by augmented ones.

    Equation: ``x' = T_k(x, m)``, ``k`` uniform over the operations and the identity, ``m ~ U(0, strength)`` with a
    random sign, both drawn for each sample.

    Operations: those of `AugMix` and brightness, contrast, colour and sharpness; what moves pixels is left out where
    targets depend on places in the image (`Task.geometric`). Ranges are AutoAugment's; the paper's wider ones (rotation
    by up to 135 degrees) are not offered.

    Args:
        strength: largest strength, 0 to 1. Default 1.
        enhancing: with brightness, contrast, colour and sharpness. Leave it out where tests on common corruptions
            follow, which contain them. Default True.
        on: names of the terms. Default ``("clean",)``.
        clean_weight: share of the term that keeps its own images, 0 to 1. Default 0.
        leaf: path of the image; None (default) when the task declares a single leaf.

    Raises:
        NoEffectError: no term has a name in ``on``. ClashError: it is crafted already.
        InputError: several leaves; a leaf that is no image; a setting out of range.

    Paper: Müller and Hutter, ICCV 2021, algorithm 1.
    """

    strength: float = 1.0
    enhancing: bool = True
    on: Sequence[str] = ("clean",)
    clean_weight: float = 0.0
    leaf: str | None = None

    clashes: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        if not (0 <= self.strength <= 1 and 0 <= self.clean_weight <= 1):
            raise InputError(f"strength {self.strength}, clean_weight {self.clean_weight}", where="TrivialAugment",
                             fix="use 0 to 1")  # fmt: skip

    def rewrite(self, terms: list[Term], step: Step) -> list[Term]:
        """Every named term on augmented images, beside its own where a clean share is kept."""
        return rewritten(terms, self.on, lambda term: self._changed(term, step), who="TrivialAugment")

    def _changed(self, term: Term, step: Step) -> list[Term]:
        if self.clean_weight == 1:
            return [term]
        ops, draw = allowed_ops(step, enhancing=self.enhancing), step.draw(f"trivial_augment.{term.name}")
        change = partial(self._one_each, ops=ops, draw=draw)
        views = tuple(augmented(view, step, self.leaf, change, who="TrivialAugment") for view in term.views)
        return split(term, suffix="augmented", clean_weight=self.clean_weight, views=views)

    def _one_each(self, image: Tensor, ops: Mapping[str, Op], draw: Generator) -> Tensor:
        n = len(image)
        choice = integers(n, len(ops) + 1, draw) - 1  # -1 is the identity
        level = self.strength * torch.rand(n, generator=draw, device=draw.device)
        return apply_each(image, ops, choice if self.strength else torch.full((n,), -1), level * signs(n, draw))

    def passes(self) -> tuple[float, float]:
        """None, or a second forward and backward where a clean share is kept."""
        return (1.0, 1.0) if 0 < self.clean_weight < 1 else (0.0, 0.0)
