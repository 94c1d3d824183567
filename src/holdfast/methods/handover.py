"""Hand-over: a loss whose gradients were computed on the way, delivered when the user calls ``backward``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from holdfast.attacks.autograd import gradients, weighted_mean
from holdfast.core.contracts import Outputs, Term
from holdfast.core.errors import ClashError

__all__ = ["EVALUATED_TWICE", "Accumulated", "HandedOver", "handed_over", "internal_scale", "passed_on", "shared_masks"]

HALF_SCALE = 2.0**10
EVALUATED_TWICE = dict.fromkeys(
    ("sam", "awp", "weightnoise"), "it evaluates the loss at other weights, where gradients made on the way are wrong"
)
"""What methods that compute gradients on the way clash with."""


def handed_over(value: Tensor, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """``value`` as a tensor whose backward delivers ``gradients`` to ``parameters``, times the incoming factor.

    Gradient scalers, accumulation and data-parallel hooks therefore work as with any loss.

    Args:
        value: a detached scalar.
        parameters: leaf tensors that require a gradient.
        gradients: one for each, of the same shape.
    """
    delivered: Tensor = _HandOver.apply(value, tuple(gradients), *parameters)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return delivered


class _HandOver(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: tuple[Tensor, ...], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *factors: Tensor) -> tuple[Tensor | None, ...]:
        [factor] = factors
        return None, None, *torch._foreach_mul(ctx.gradients, factor)


class Accumulated:
    """Sums losses and their weight gradients over several forwards.

    Args:
        parameters: those that require a gradient take part.

    Raises:
        ClashError: the weights are sharded (FSDP2); their gradients cannot be asked for, only be left on them.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        if any(hasattr(p, "device_mesh") for p in parameters):
            raise ClashError("the weights are sharded, gradients cannot be computed on the way", where="hand-over",
                             fix="use DDP, or another method under FSDP2")  # fmt: skip
        self.parameters = [p for p in parameters if p.requires_grad]
        self._sums: list[Tensor | None] = [None] * len(self.parameters)
        self._value: Tensor | None = None

    def add(self, loss: Tensor, *others: Tensor, weight: float = 1.0) -> tuple[Tensor | None, ...]:
        """Add ``weight`` times the mean of a loss, (B,) or (); return its gradients, up to a scale, for ``others``."""
        scale = internal_scale(loss)
        value, share = weighted_mean(loss, weight)
        found = gradients((loss,), (*self.parameters, *others), (share if scale == 1 else share * scale,))
        own = found[: len(self.parameters)]
        if scale != 1:
            own = tuple([gradient if gradient is None else gradient / scale for gradient in own])
        self._sums = list(own) if self._value is None else [_sum(*pair) for pair in zip(self._sums, own, strict=True)]
        self._value = value if self._value is None else self._value + value
        return found[len(self.parameters) :]

    def loss(self) -> HandedOver | None:
        """The sum, ready for ``backward``; None where nothing was added."""
        if self._value is None:
            return None
        used = [(p, g) for p, g in zip(self.parameters, self._sums, strict=True) if g is not None]
        return HandedOver(self._value, [p for p, _ in used], [g for _, g in used])


@dataclass(frozen=True, eq=False)
class HandedOver:
    """The loss of a term whose gradients are known; whoever differentiates a step himself takes them as they are.

    Args:
        value: a detached scalar.
        parameters: leaf tensors that require a gradient.
        gradients: one for each, of the same shape.
    """

    value: Tensor
    parameters: Sequence[Tensor]
    gradients: Sequence[Tensor]

    def __call__(self, outputs: tuple[Outputs, ...] = ()) -> Tensor:
        """As a tensor, see `handed_over`."""
        return handed_over(self.value, self.parameters, self.gradients)


def passed_on(term: Term, earlier: Accumulated, last: Tensor, *, weight: float) -> list[Term]:
    """A term whose passes were made on the way: its last one, of this weight, and the sum of the others.

    The last pass keeps its graph for the user's ``backward``: no engine has to be started for it.
    """
    own = term.changed(views=(), loss=lambda _: last, weight=weight * term.weight, crafted=True)
    handed = earlier.loss()
    if handed is None:
        return [own]
    return [own, own.changed(name=f"{term.name}_earlier", loss=handed, weight=term.weight)]


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def internal_scale(loss: Tensor) -> float:
    """Factor under which a loss is differentiated inside: a scaler has no part here, and float16 underflows."""
    kind = loss.device.type
    half = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16
    return HALF_SCALE if half else 1.0


def shared_masks(device: torch.device) -> Callable[[], None]:
    """A function that puts the global generators back to where they are now, so that dropout masks repeat."""
    cpu = torch.get_rng_state()
    accelerator = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def rewind() -> None:
        torch.set_rng_state(cpu)
        if accelerator is not None:
            torch.cuda.set_rng_state(accelerator, device)

    return rewind
