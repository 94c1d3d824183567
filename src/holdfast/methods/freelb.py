"""FreeLB: every step of an ascent on an embedding also trains the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from holdfast.attacks.samples import by_sample, per_sample_norm
from holdfast.attacks.seal import modules_of, trained_in
from holdfast.core.contracts import Batch, Step, Surgery, Term
from holdfast.core.errors import InputError, NoEffectError
from holdfast.core.space import get_leaf
from holdfast.methods.handover import EVALUATED_TWICE, Accumulated, passed_on, shared_masks
from holdfast.methods.inner import tap_value
from holdfast.methods.mixing import single_view
from holdfast.methods.rewriting import rewritten
from holdfast.surgery.taps import Taps

__all__ = ["FreeLB"]


@dataclass(frozen=True, kw_only=True)
class FreeLB:
    r"""Free large-batch adversarial training on an inner tensor, such as word embeddings.

    Equation: ``L = 1/K sum_{t<K} L(e + d_t)``, ``d_0 = U(-1, 1) * start / sqrt(n)`` with ``n`` the elements that
    count, ``d_{t+1} = d_t + step * g_t / ||g_t||_2`` by sample, shortened to ``max_norm``. Weight gradients of all K
    passes add up; the last pass computes no gradient of ``d``; dropout masks are the same in all K.

    All passes are made while the loss is computed. The last keeps its graph, and the gradients of the others are handed
    over when ``backward`` is called: K forwards and backwards in all, where separate terms would need about half as
    many again.

    Args:
        tap: what is perturbed, the output of this layer, e.g. ``"embedding"``.
        steps: K. Default 2. Published for SST-2: 2 steps of 0.1 from 0.6; MRPC: 4 of 0.03 from 0; MNLI: 3 of 0.04.
        step: length of a step. Default 0.1.
        start: size of the random start. Default 0.6.
        max_norm: largest length of the perturbation of a sample; 0 (default) for no limit.
        mask: path of a leaf, (B, L), that is zero where ``tap`` (B, L, D) is padding.
        on: name of the term. Default ``"clean"``.

    Raises:
        NoEffectError: no term is named ``on``, or the loss does not depend on the tap. ClashError: it is crafted.
        InputError: no tap is named, it is not in the model, or a setting is out of range.

    Paper: Zhu et al., ICLR 2020, algorithm 1.
    """

    tap: str = ""
    steps: int = 2
    step: float = 0.1
    start: float = 0.6
    max_norm: float = 0.0
    mask: str = ""
    on: str = "clean"

    clashes: ClassVar[Mapping[str, str]] = {
        "freeat": "both compute weight gradients on the way",
        "yopo": "both compute weight gradients on the way",
        **EVALUATED_TWICE,
    }

    def __post_init__(self) -> None:
        if self.steps < 1 or min(self.step, self.start, self.max_norm) < 0:
            raise InputError(f"steps {self.steps}, step {self.step}, start {self.start}, max_norm {self.max_norm}",
                             where="FreeLB", fix="use at least one step and no negative lengths")  # fmt: skip

    @property
    def surgery(self) -> tuple[Surgery, ...]:
        """The tap."""
        return (Taps(layers=(self.tap,) if self.tap else ()),)

    def rewrite(self, terms: list[Term], step: Step) -> list[Term]:
        """The terms with the named one at the last perturbation, and ``_earlier`` with what the others gave."""
        return rewritten(terms, (self.on,), lambda term: self._trained(term, step), who="FreeLB")

    def _trained(self, term: Term, step: Step) -> list[Term]:
        view = single_view(term, who="FreeLB")
        value = tap_value(term, step, tap=self.tap)
        mask = self._mask(view, value) if self.mask else None
        delta = self._first(value, mask, step)
        total, rewind = Accumulated(trained_in(modules_of(step.model))), shared_masks(delta.device)

        def loss_at(delta: Tensor) -> Tensor:
            return term.loss((step.forward(view, **term.call, add={self.tap: delta}),))

        for _ in range(self.steps - 1):
            [gradient] = total.add(loss_at(delta.requires_grad_()), delta, weight=1 / self.steps)
            delta = self._moved(delta.detach(), gradient, mask)
            rewind()
        return passed_on(term, total, loss_at(delta), weight=1 / self.steps)

    def _mask(self, view: Batch, value: Tensor) -> Tensor:
        """1.0 where the tap may be perturbed and 0.0 elsewhere, float32, broadcastable against it."""
        mask: Tensor = get_leaf(view, self.mask)
        if mask.shape != value.shape[:2]:
            raise InputError(f"mask {tuple(mask.shape)} does not fit a tap of {tuple(value.shape)}", where="FreeLB",
                             fix="give a mask (B, L) for a tap (B, L, D)")  # fmt: skip
        return mask.view(*mask.shape, *([1] * (value.ndim - 2))).to(value.device, torch.float32)

    def _first(self, value: Tensor, mask: Tensor | None, step: Step) -> Tensor:
        """A random start, float32, for a tap."""
        draw, n = step.draw("freelb"), value[0].numel()
        size = self.start / max(n, 1) ** 0.5 if mask is None else 1.0
        noise = torch.empty(value.shape, device=draw.device).uniform_(-size, size, generator=draw).to(value.device)
        if mask is None:
            return noise
        counted = mask.flatten(1).sum(1) * (n / max(mask[0].numel(), 1))
        return noise.mul_(mask * (self.start / by_sample(counted.clamp(min=1.0).sqrt(), value)))

    def _moved(self, delta: Tensor, gradient: Tensor | None, mask: Tensor | None) -> Tensor:
        """One normalised ascent step of each sample."""
        if gradient is None:
            raise NoEffectError("the loss does not depend on the tap", where="FreeLB", fix="tap a layer that is used")
        gradient = gradient.to(delta) if mask is None else gradient.to(delta) * mask
        delta = torch.addcdiv(delta, gradient, per_sample_norm(gradient), value=self.step)
        if self.max_norm > 0:
            delta = delta * (self.max_norm / per_sample_norm(delta)).clamp(max=1.0)
        return delta

    def passes(self) -> tuple[float, float]:
        """K forwards and backwards in all."""
        return self.steps - 1.0, self.steps - 1.0
