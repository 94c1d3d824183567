"""Preprocessing jitter: train on random mixtures of resize kernels, softening, gain, noise and rounding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad

from holdfast.attacks.samples import uniform
from holdfast.core.contracts import Batch, Step, Term
from holdfast.core.errors import InputError
from holdfast.core.space import Leaf, get_leaf, with_leaf
from holdfast.methods.rewriting import only_leaf, rewritten, split

__all__ = ["PreprocessJitter", "mixed", "pixel_jitter"]


@dataclass(frozen=True, kw_only=True)
class PreprocessJitter:
    r"""Replace a term's images by the same scenes under a random preprocessing, so that no single one is learned.

    Equation, with a fresh draw for every sample: ``m = sum_k w_k v_k``, ``w ~ Dirichlet(1)`` over the named
    pipelines' images ``v_k``; ``s = m + a (blur(m) - m)``, ``a ~ U(-soften, soften)``;
    ``x' = round?((1 + g) s + b + n)``, ``g ~ U(-gain, gain)``, ``b ~ U(-bias, bias)``,
    ``n ~ N(0, (noise U(0, 1))^2)`` by pixel, clipped to the valid range.

    The variants are the training frames under each of ``pipelines``, at network size. holdfast's loop makes them
    once and hands them over as ``batch["variants"]`` (name -> tensor like the image); resizing sensor frames in every
    step would cost more than the network. A loop of your own may do the same, or set ``pipelines=()``: then only the
    part after the mixture remains, which softens and rounds but knows no resize kernel and no colour conversion.

    Args:
        pipelines: names of the task's pipelines to mix. With ``()`` nothing is mixed.
        soften: largest share of a 3x3 binomial blur that is added or, negative, taken away. Recommended 0.5.
        gain: largest relative change of contrast about the leaf's ``low``. Recommended 0.05.
        bias: largest offset in units of the leaf. Recommended 3.
        noise: largest standard deviation of pixel noise in units of the leaf. Recommended 1.
        rounding: probability of rounding to whole units. Recommended 0.5.
        on: names of the terms to change. Default ``("clean",)``.
        clean_weight: share of the term that keeps its own images, 0 to 1. Default 0.
        leaf: path of the image; None (default) when the task declares a single leaf.

    Raises:
        InputError: ``pipelines`` are named but the batch has no variants of that name; ``soften`` on a leaf that is
            no image batch (B, C, H, W); a setting out of range.
        NoEffectError: no term has a name in ``on``.
        ClashError: the term is crafted already: list this method before attacks.
    """

    pipelines: Sequence[str] = ("train", "aa_bicubic", "area")
    soften: float = 0.5
    gain: float = 0.05
    bias: float = 3.0
    noise: float = 1.0
    rounding: float = 0.5
    on: Sequence[str] = ("clean",)
    clean_weight: float = 0.0
    leaf: str | None = None

    clashes: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        shares = {"gain": self.gain, "rounding": self.rounding, "clean_weight": self.clean_weight}
        if odd := [name for name, value in shares.items() if not 0 <= value <= 1]:
            raise InputError(f"{odd[0]} {shares[odd[0]]} is not between 0 and 1", where="PreprocessJitter")
        if min(self.soften, self.bias, self.noise) < 0:
            raise InputError("soften, bias and noise must not be negative", where="PreprocessJitter")

    @property
    def variants(self) -> tuple[str, ...]:
        """The pipelines under which the training loop must provide the images of each batch."""
        return tuple(self.pipelines)

    def rewrite(self, terms: list[Term], step: Step) -> list[Term]:
        """Every named term on jittered images, beside its own where a clean share is kept."""
        return rewritten(terms, self.on, lambda term: self._changed(term, step), who="PreprocessJitter")

    def _changed(self, term: Term, step: Step) -> list[Term]:
        if self.clean_weight == 1:
            return [term]
        path, leaf = only_leaf(step.task.space, self.leaf, who="PreprocessJitter")
        draw = step.draw("preprocess_jitter" if term.name == "clean" else f"preprocess_jitter.{term.name}")
        views = tuple(with_leaf(view, path, self._jittered(view, path, leaf, draw)) for view in term.views)
        return split(term, suffix="jitter", clean_weight=self.clean_weight, views=views)

    @torch.no_grad()
    def _jittered(self, view: Batch, path: str, leaf: Leaf, draw: Generator) -> Tensor:
        image = get_leaf(view, path)
        if self.pipelines:
            image = mixed(_variants(view, self.variants, image), draw)
        return pixel_jitter(image, leaf, draw, soften=self.soften, gain=self.gain, bias=self.bias, noise=self.noise,
                            rounding=self.rounding)  # fmt: skip

    def passes(self) -> tuple[float, float]:
        """None, or a second forward and backward where a clean share is kept."""
        return (1.0, 1.0) if 0 < self.clean_weight < 1 else (0.0, 0.0)


def mixed(variants: Sequence[Tensor], draw: Generator) -> Tensor:
    """A random convex combination of equal-shaped tensors (B, ...), weights from Dirichlet(1) for each sample."""
    if len(variants) == 1:
        return variants[0]
    first = variants[0]
    # Normalised exponentials are Dirichlet(1).
    weights = -(1.0 - uniform((len(variants), len(first)), draw, like=first)).log()
    weights = (weights / weights.sum(dim=0)).view(len(variants), -1, *([1] * (first.ndim - 1)))
    total = weights[0] * first
    for weight, variant in zip(weights[1:], variants[1:], strict=True):
        total.addcmul_(weight, variant)
    return total


def pixel_jitter(
    image: Tensor, leaf: Leaf, draw: Generator, *, soften: float = 0.5, gain: float = 0.05, bias: float = 3.0,
    noise: float = 1.0, rounding: float = 0.5,
) -> Tensor:  # fmt: skip
    """Soften or sharpen, change gain and bias, add noise and round, each drawn by sample; see `PreprocessJitter`.

    Args:
        image: float (B, C, H, W) in stored values; any float (B, ...) when ``soften`` is 0.
        leaf: its declaration.
        draw: of all draws; the same ones are made whatever the strengths, so that arms can be compared.
        soften: see `PreprocessJitter`, as the others; with all strengths 0 the result equals ``image``.
        gain: largest relative change about ``low``.
        bias: largest offset in units.
        noise: largest standard deviation in units.
        rounding: probability of rounding.
    """
    if soften > 0 and image.ndim != 4:
        raise InputError(f"a leaf of shape {tuple(image.shape)} cannot be softened", where="PreprocessJitter",
                         fix="set soften=0, or name an image (B, C, H, W) in `leaf`")  # fmt: skip
    u = uniform((5, len(image)), draw, like=image).view(5, -1, *([1] * (image.ndim - 1)))
    unit, low = leaf.budget(1.0, image), leaf.stored(leaf.low, image)
    signed = 2.0 * u - 1.0
    if soften > 0:
        image = image.lerp(_blurred(image), signed[0] * soften)
    image = image + signed[1] * gain * (image - low) + signed[2] * bias * unit
    if noise > 0:
        pixels = torch.randn(image.shape, generator=draw, device=draw.device).to(image)
        image = image.addcmul(pixels, u[3] * noise * unit)
    image = torch.where(u[4] < rounding, ((image - low) / unit).round() * unit + low, image)
    return leaf.clip(image)


def _blurred(image: Tensor) -> Tensor:
    """The 3x3 binomial blur, edges repeated. Sums of shifted views: pooling takes six times as long on a CPU."""
    framed = pad(image, (1, 1, 1, 1), mode="replicate")
    columns = (framed[..., :-2, :] + framed[..., 2:, :]).add_(framed[..., 1:-1, :], alpha=2)
    return (columns[..., :-2] + columns[..., 2:]).add_(columns[..., 1:-1], alpha=2).mul_(1 / 16)


def _variants(view: Batch, names: Sequence[str], image: Tensor) -> list[Tensor]:
    held = view.get("variants", {}) if isinstance(view, Mapping) else {}
    if missing := [name for name in names if name not in held]:
        raise InputError(f"the batch has no variant {missing[0]!r}, only {sorted(held)}", where="PreprocessJitter",
                         fix='give batch["variants"] = {name: images}, or set pipelines=()')  # fmt: skip
    if odd := [name for name in names if held[name].shape != image.shape]:
        raise InputError(f"variant {odd[0]!r} has shape {tuple(held[odd[0]].shape)}, not {tuple(image.shape)}",
                         where="PreprocessJitter", fix="make the variants at network size")  # fmt: skip
    return [held[name] for name in names]
