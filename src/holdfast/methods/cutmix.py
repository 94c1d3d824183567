"""CutMix: train on images into which a box of another image is pasted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from holdfast.core.contracts import Step, Term
from holdfast.core.errors import ClashError, InputError
from holdfast.core.space import get_leaf
from holdfast.methods.mixing import beta, mix_leaves, mixed_term, partners, single_view
from holdfast.methods.rewriting import chosen_leaves, rewritten

__all__ = ["CutMix", "box"]


@dataclass(frozen=True, kw_only=True)
class CutMix:
    r"""Replace a term by one on images with a pasted box.

    Equation: ``lam L(x_cut, y) + (1 - lam) L(x_cut, y_p)``, ``x_cut = x`` outside a box and ``x_p`` inside; the box has
    ``1 - lam`` of the area, ``lam ~ Beta(alpha, alpha)``, its centre is uniform, and after clipping at the border
    ``lam`` is recomputed from its true area. One box and one permutation ``p`` for each batch.

    Args:
        alpha: both parameters of the Beta. Default 1.
        on: name of the term. Default ``"clean"``.

    Raises:
        ClashError: the task's targets are places in the image, which a pasted box would falsify.
        NoEffectError: no term is named ``on``.
        InputError: a leaf is no image (B, C, H, W); leaves differ in size; alpha is not positive.

    Paper: Yun et al., ICCV 2019, equations 1 and 2.
    """

    alpha: float = 1.0
    on: str = "clean"

    clashes: ClassVar[Mapping[str, str]] = {"mixup": "both take the place of the clean term"}

    def __post_init__(self) -> None:
        if self.alpha <= 0:
            raise InputError(f"alpha {self.alpha} is not positive", where="CutMix")

    def rewrite(self, terms: list[Term], step: Step) -> list[Term]:
        """The terms with the named one cut and pasted; it keeps its name."""
        if step.task.geometric:
            raise ClashError("the targets are places in the image, a pasted box would falsify them", where="CutMix",
                             fix="use regmixup, or preprocess_jitter")  # fmt: skip
        return rewritten(terms, (self.on,), lambda term: [self._cut(term, step)], who="CutMix")

    def _cut(self, term: Term, step: Step) -> Term:
        draw, view = step.draw("cutmix"), single_view(term, who="CutMix")
        images = [get_leaf(view, path) for path in chosen_leaves(step.task.space, None, who="CutMix")]
        sizes = {tuple(image.shape[2:]) for image in images}
        if len(sizes) != 1 or any(image.ndim != 4 for image in images):
            raise InputError(f"leaves of shapes {[tuple(i.shape) for i in images]} are not images of one size",
                             where="CutMix", fix="it needs (B, C, H, W)")  # fmt: skip
        [(height, width)] = sizes
        pasted = box(height, width, beta(self.alpha, draw), draw)
        order, lam = partners(len(images[0]), draw), 1.0 - pasted.mean()
        mixed = mix_leaves(step, view, order, lambda x, partner: torch.lerp(x, partner, pasted.to(x)))
        return mixed_term(term, mixed, step, order, lam, by_task=False)  # targets mixed by lam would not fit the box

    def passes(self) -> tuple[float, float]:
        """None."""
        return 0.0, 0.0


def box(height: int, width: int, lam: Tensor, draw: Generator) -> Tensor:
    """1.0 inside a box of share ``1 - lam`` about a uniform centre and 0.0 outside, float (height, width)."""
    reach = (1.0 - lam).sqrt() / 2
    centre = torch.rand(2, generator=draw, device=draw.device).to(lam.device)
    # Pixels beyond the centre by more than the reach are outside, counted in sizes of the image.
    places = (torch.arange(0.5, n, device=lam.device).div_(n) for n in (height, width))
    rows, columns = ((place.sub_(c).abs_() <= reach).float() for place, c in zip(places, centre, strict=True))
    return torch.outer(rows, columns)
