"""AugMix: outputs must agree between an image and two random mixtures of simple changes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.utils._pytree import tree_map

from holdfast.core.contracts import Batch, Outputs, Step, Term
from holdfast.core.errors import InputError
from holdfast.methods.augmentation import allowed_ops, augmented, integers, signs
from holdfast.methods.consistency import divergence_of
from holdfast.methods.image_ops import Op, apply_each
from holdfast.methods.mixing import single_view
from holdfast.methods.rewriting import rewritten

__all__ = ["AugMix", "mixture_of_chains"]


@dataclass(frozen=True, kw_only=True)
class AugMix:
    r"""Add a divergence between the outputs on an image and on two augmented mixtures of it.

    Equation: ``L(x, y) + weight * 1/3 sum_k D(f(x_k), m)`` over ``x`` and two mixtures, ``m`` the mean of the three
    outputs (of probabilities, for logits: then it is the Jensen-Shannon divergence). A mixture is
    ``(1 - b) x + b sum_i w_i chain_i(x)``, ``w ~ Dirichlet(1)``, ``b ~ U(0, 1)``, each chain one to three operations.

    Operations: autocontrast, equalize, posterize, solarize, and where targets do not depend on places in the image
    (`Task.geometric`) rotate, shear and translate. Brightness, contrast, colour and sharpness are left out, as in the
    paper, because tests on common corruptions contain them.

    Args:
        weight: default 12.
        width: chains in a mixture. Default 3.
        depth: operations in a chain; 0 (default) draws one to three.
        severity: largest strength, 1 to 10. Default 3.
        joined: run the three images in one forward with the clean term, as in the paper. Default True.
        leaf: path of the image; None (default) when the task declares a single leaf.
        on: name of the term. Default ``"clean"``.

    Raises:
        InputError: the task has no divergence; several leaves; a leaf that is no image; a setting out of range.
        NoEffectError: no term is named ``on``. ClashError: it is crafted.

    Paper: Hendrycks et al., ICLR 2020, algorithm 1 and equation 1.
    """

    weight: float = 12.0
    width: int = 3
    depth: int = 0
    severity: float = 3.0
    joined: bool = True
    leaf: str | None = None
    on: str = "clean"

    clashes: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        if self.weight < 0 or self.width < 1 or self.depth < 0 or not 0 <= self.severity <= 10:
            raise InputError(
                f"weight {self.weight}, width {self.width}, depth {self.depth}, severity {self.severity}",
                where="AugMix", fix="use a weight of 0 or more, at least one chain, severity 0 to 10",
            )  # fmt: skip

    def rewrite(self, terms: list[Term], step: Step) -> list[Term]:
        """The terms and, after the clean one, the divergence ``augmix``; the clean forward is shared."""
        return rewritten(terms, (self.on,), lambda term: [term, self._divergence(term, step)], who="AugMix")

    def _divergence(self, term: Term, step: Step) -> Term:
        view, divergence = single_view(term, who="AugMix"), divergence_of(step, who="AugMix")
        ops, draw = allowed_ops(step, enhancing=False), step.draw("augmix")
        others = [self._augmented(view, step, ops, draw) for _ in range(2)]

        def loss(outputs: tuple[Outputs, ...]) -> Tensor:
            middle = _mean(outputs) if step.task.mixture is None else step.task.mixture(outputs)
            return torch.stack([divergence(one, middle, view) for one in outputs]).mean(0)

        return Term(name="augmix", views=(view, *others), loss=loss, weight=self.weight * term.weight, crafted=True,
                    joins=term.name if self.joined else None, call=term.call)  # fmt: skip

    def _augmented(self, view: Batch, step: Step, ops: Mapping[str, Op], draw: Generator) -> Batch:
        def change(image: Tensor) -> Tensor:
            return mixture_of_chains(image, ops, draw, width=self.width, depth=self.depth, severity=self.severity)

        return augmented(view, step, self.leaf, change, who="AugMix")

    def passes(self) -> tuple[float, float]:
        """Two more forwards and backwards."""
        return 2.0, 2.0


def mixture_of_chains(image: Tensor, ops: Mapping[str, Op], draw: Generator, *, width: int = 3, depth: int = 0,
                      severity: float = 3.0) -> Tensor:  # fmt: skip
    """A random mixture of an image with chains of operations on it; see `AugMix`.

    Args:
        image: float (B, C, H, W) in 0..1.
        ops: operations to choose from, by name.
        draw: of all draws, made by sample.
        width: number of chains.
        depth: operations in each; 0 draws one to three.
        severity: largest strength, 0 to 10.
    """
    n = len(image)
    weights = -(1.0 - torch.rand((width, n), generator=draw, device=draw.device)).log()
    weights = (weights / weights.sum(0)).to(image).view(width, n, 1, 1, 1)
    share = torch.rand((n, 1, 1, 1), generator=draw, device=draw.device).to(image)
    total = torch.zeros_like(image)
    for weight in weights:
        lengths = integers(n, 3, draw) + 1 if depth == 0 else torch.full((n,), depth)
        chain = image
        for k in range(3 if depth == 0 else depth):
            choice = torch.where(lengths > k, integers(n, len(ops), draw), -1)
            # The published level is U(0.1, severity) of 10.
            level = 0.01 + (severity / 10 - 0.01) * torch.rand(n, generator=draw, device=draw.device)
            chain = apply_each(chain, ops, choice, level.clamp(min=0.0) * signs(n, draw))
        total = total + weight * chain
    return torch.lerp(image, total, share)


def _mean(outputs: Sequence[Outputs]) -> Outputs:
    return tree_map(lambda *parts: torch.stack(parts).mean(0), *outputs)
