"""CutMix: train on images into which a box of another image is pasted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, floor
from random import Random
from typing import ClassVar

from torch import Tensor

from holdfast.core.contracts import Step, Term
from holdfast.core.errors import ClashError, InputError
from holdfast.core.space import get_leaf
from holdfast.methods.mixing import mixed_term, on_host, partners, single_view, taken
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
        images = {path: get_leaf(view, path) for path in chosen_leaves(step.task.space, None, who="CutMix")}
        sizes = {tuple(image.shape[2:]) for image in images.values()}
        if len(sizes) != 1 or any(image.ndim != 4 for image in images.values()):
            raise InputError(f"leaves of shapes {[tuple(i.shape) for i in images.values()]} are not images of one size",
                             where="CutMix", fix="it needs (B, C, H, W)")  # fmt: skip
        [(height, width)] = sizes
        numbers, order = on_host(draw), partners(len(next(iter(images.values()))), draw)
        place = box(height, width, numbers.betavariate(self.alpha, self.alpha), numbers)
        rows, columns = place
        lam = 1.0 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
        mixed = step.task.space.replace(view, {path: _pasted(x, order, place) for path, x in images.items()})
        # Targets mixed by the lambda that was drawn would not fit the box.
        return mixed_term(term, mixed, step, order, lam, by_task=False)

    def passes(self) -> tuple[float, float]:
        """None."""
        return 0.0, 0.0


def box(height: int, width: int, lam: float, numbers: Random) -> tuple[slice, slice]:
    """Rows and columns of a box of share ``1 - lam`` about a uniform centre, clipped at the border."""
    reach = (1.0 - lam) ** 0.5 / 2
    return _span(height, reach, numbers), _span(width, reach, numbers)


def _span(n: int, reach: float, numbers: Random) -> slice:
    """The pixels whose centres lie within ``reach``, in sizes of the image, of a uniform centre."""
    centre = numbers.random()
    start = max(ceil(n * (centre - reach) - 0.5), 0)
    return slice(start, max(min(floor(n * (centre + reach) + 0.5), n), start))


def _pasted(x: Tensor, order: Tensor, place: tuple[slice, slice]) -> Tensor:
    mixed = x.clone()
    mixed[..., place[0], place[1]] = taken(x[..., place[0], place[1]], order)
    return mixed
