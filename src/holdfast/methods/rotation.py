"""Rotation: an auxiliary head has to tell how the image was turned, flipped or cut; no labels needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate

from holdfast.core.contracts import Batch, Outputs, Step, Surgery, Term
from holdfast.core.errors import ClashError, InputError
from holdfast.core.space import get_leaf, mapped, with_leaf
from holdfast.methods.rewriting import only_leaf
from holdfast.surgery.auxiliary_head import AuxiliaryHead

__all__ = ["PRETEXTS", "Rotation"]

Pretext: TypeAlias = Literal["rotation", "flip", "patch"]
KINDS = 4


@dataclass(frozen=True, kw_only=True)
class Rotation:
    r"""Add the loss of a head that predicts which of four transformations the image went through.

    Equation: ``L(x, y) + weight * CE(head(T_k x), k)``, ``k`` in 0..3; the head is linear on the mean of a tapped
    layer. ``rotation``: by 0, 90, 180 or 270 degrees; ``flip``: none, horizontal, vertical or both; ``patch``: one of
    the four quadrants, enlarged. Where full rotations are unnatural, as on roads, use ``flip`` or ``patch``.

    The term is named ``rotation``; attack it with ``adversarial: {on: [clean, rotation]}`` as the paper does.

    Args:
        pretext: default ``"rotation"``.
        copies: ``"all"`` four of every image, as in the paper, or ``"one"`` at random, at a quarter of the cost.
        weight: default 0.5.
        tap: layer that feeds the head, ``:input`` for its input; empty: the input of the last layer with weights.
        leaf: path of the image; None (default) when the task declares a single leaf.
        seed: of the head's initialisation.

    Raises:
        ClashError: an image that is not square cannot be rotated by 90 degrees.
        InputError: a leaf that is no image (B, C, H, W), several leaves, an unknown setting.

    Paper: Hendrycks et al., NeurIPS 2019, equation 1. Two outside users could not reproduce the gain against PGD.
    """

    pretext: Pretext = "rotation"
    copies: Literal["all", "one"] = "all"
    weight: float = 0.5
    tap: str = ""
    leaf: str | None = None
    seed: int = 0

    clashes: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        if self.pretext not in PRETEXTS or self.copies not in ("all", "one") or self.weight < 0:
            raise InputError(f"pretext {self.pretext!r}, copies {self.copies!r}, weight {self.weight}",
                             where="Rotation", fix=f"use one of {sorted(PRETEXTS)}, all or one")  # fmt: skip

    @property
    def surgery(self) -> tuple[Surgery, ...]:
        """The head."""
        return (AuxiliaryHead(name="rotation", outputs=KINDS, tap=self.tap, seed=self.seed),)

    def rewrite(self, terms: list[Term], step: Step) -> list[Term]:
        """The terms and ``rotation``."""
        view, kinds = self._transformed(step)

        def loss(outputs: tuple[Outputs, ...]) -> Tensor:
            _, read = outputs[0]
            return cross_entropy(read["rotation"], kinds, reduction="none")

        return [*terms, Term(name="rotation", views=(view,), loss=loss, weight=self.weight,
                             call={"heads": ("rotation",), "only_read": True})]  # fmt: skip

    def _transformed(self, step: Step) -> tuple[Batch, Tensor]:
        """A batch of transformed images, and what was done to each, int64."""
        path, _ = only_leaf(step.task.space, self.leaf, who="Rotation")
        image = get_leaf(step.batch, path)
        _check(image, self.pretext)
        every = PRETEXTS[self.pretext](image)
        if self.copies == "all":
            kinds = torch.arange(KINDS, device=image.device).repeat_interleave(len(image))
            rest = with_leaf(step.batch, path, None)  # the images are large and needed once
            repeated = mapped(rest, lambda t: torch.cat([t] * KINDS))
            return with_leaf(repeated, path, torch.cat(every)), kinds
        draw = step.draw("rotation")
        kinds = torch.randint(KINDS, (len(image),), generator=draw, device=draw.device).to(image.device)
        chosen = torch.stack(every)[kinds, torch.arange(len(image), device=image.device)]
        return with_leaf(step.batch, path, chosen), kinds

    def passes(self) -> tuple[float, float]:
        """Four, or one, forward and backward."""
        n = float(KINDS) if self.copies == "all" else 1.0
        return n, n


def _check(image: Tensor, pretext: Pretext) -> None:
    if image.ndim != 4:
        raise InputError(f"a leaf of shape {tuple(image.shape)} is no image", where="Rotation",
                         fix="name an image (B, C, H, W) in `leaf`")  # fmt: skip
    if pretext == "rotation" and image.shape[2] != image.shape[3]:
        raise ClashError(f"an image of {image.shape[2]}x{image.shape[3]} cannot be rotated by 90 degrees",
                         where="Rotation", fix="use pretext='flip' or 'patch'")  # fmt: skip


def _rotated(image: Tensor) -> list[Tensor]:
    return [image.rot90(k, (2, 3)) for k in range(KINDS)]


def _flipped(image: Tensor) -> list[Tensor]:
    return [image.flip(dims) if dims else image for dims in ((), (3,), (2,), (2, 3))]


def _quadrants(image: Tensor) -> list[Tensor]:
    size = image.shape[2:]
    halves = [part for rows in image.chunk(2, dim=2) for part in rows.chunk(2, dim=3)]
    return [interpolate(part, size=size, mode="bilinear", align_corners=False) for part in halves]


PRETEXTS: Mapping[str, Callable[[Tensor], list[Tensor]]] = {
    "rotation": _rotated, "flip": _flipped, "patch": _quadrants,
}  # fmt: skip
"""The four transformations of an image float (B, C, H, W), by name."""
