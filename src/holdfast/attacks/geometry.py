"""The set an attack may choose from: a ball in sensor units around the clean input, inside the valid range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias

import torch
from torch import Generator, Tensor

from holdfast.core.errors import InputError
from holdfast.core.space import Leaf

__all__ = ["Ball", "Budget", "Norm", "per_sample_norm", "uniform"]

Norm: TypeAlias = Literal["linf", "l2"]
Budget: TypeAlias = float | Tensor | Sequence[float] | Mapping[str, Any]
"""``eps`` in units of the leaf: a number, one per channel, a tensor (B,) with one per sample, or any by leaf path."""


@dataclass(frozen=True, kw_only=True)
class Ball:
    r"""``{z : ||(z - x) / radius|| <= 1, low <= z <= high}``, all in stored values and broadcastable against ``x``.

    With one number for ``eps`` the L2 ball is ``||(z - x) / unit||_2 <= eps`` over all elements of a sample.

    Args:
        x: clean tensor, float (B, ...).
        norm: ``"linf"`` or ``"l2"``.
        unit: stored size of one unit.
        radius: stored size of the budget.
        low: smallest admissible value; with ``"linf"`` it includes the ball.
        high: largest admissible value.
    """

    x: Tensor
    norm: Norm
    unit: Tensor
    radius: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def around(cls, x: Tensor, *, eps: Any, norm: Norm, leaf: Leaf) -> Ball:
        """The ball of ``eps`` (see `Budget`) around ``x``, widened where ``x`` leaves the valid range by rounding.

        Raises:
            InputError: a negative budget, a tensor that is not floating point, an unknown norm.
        """
        if not x.is_floating_point():
            raise InputError(f"dtype {x.dtype} cannot be perturbed", where="attack", fix="convert it to float")
        if norm not in ("linf", "l2"):
            raise InputError(f"unknown norm {norm!r}", where="attack", fix="use 'linf' or 'l2'")
        x, radius = x.detach(), _radius(eps, leaf, x)
        low, high = leaf.stored(leaf.low, x), leaf.stored(leaf.high, x)
        if norm == "linf":
            reach = _reach(x, radius)
            low, high = torch.clamp(low, x - reach, x), torch.clamp(high, x, x + reach)
        else:
            low, high = low.minimum(x), high.maximum(x)
        return cls(x=x, norm=norm, unit=leaf.budget(1.0, x), radius=radius, low=low, high=high)

    @classmethod
    def joined(cls, balls: Sequence[Ball]) -> Ball:
        """One ball over the concatenated elements of several, shape (B, n)."""
        names = [field.name for field in fields(cls) if field.name != "norm"]
        flat = {name: [getattr(ball, name).expand_as(ball.x).flatten(1) for ball in balls] for name in names}
        return cls(norm=balls[0].norm, **{name: torch.cat(parts, dim=1) for name, parts in flat.items()})

    def project(self, z: Tensor) -> Tensor:
        """The nearest admissible tensor, a new one."""
        if self.norm == "l2":
            inverse = (self.radius > 0) / self.radius.clamp(min=torch.finfo(self.radius.dtype).tiny)
            scaled = (z - self.x) * inverse
            # A hair inside, so that the promise survives the rounding of x + delta.
            shrink = ((1.0 - 1e-5) / per_sample_norm(scaled)).clamp(max=1.0)
            z = torch.addcmul(self.x, scaled, self.radius * shrink, out=scaled)
        return z.clamp(self.low, self.high).to(self.x.dtype)

    def start(self, generator: Generator) -> Tensor:
        """A random admissible tensor: uniform in the L-infinity ball; random direction, radius uniform, in L2."""
        if self.norm == "linf":
            return self.project(self.x + self.radius * (2.0 * uniform(self.x.shape, generator, like=self.x) - 1.0))
        noise = torch.randn(self.x.shape, generator=generator, device=generator.device).to(self.x)
        length = uniform((len(self.x), *([1] * (self.x.ndim - 1))), generator, like=self.x)
        return self.project(self.x + self.radius * noise * (length / per_sample_norm(noise)))

    def ascend(self, z: Tensor, gradient: Tensor, step: Tensor) -> Tensor:
        """One step of steepest ascent of length ``step`` (stored values), projected; a zero gradient moves nothing."""
        if self.norm == "linf":
            moved = gradient.sign()  # one tensor for the whole step: on a small model, memory is what costs
            return torch.addcmul(z, moved, step, out=moved).clamp_(self.low, self.high)
        direction = self.radius * gradient
        return self.project(torch.addcmul(z, direction, step / per_sample_norm(direction)))


def _radius(eps: Any, leaf: Leaf, x: Tensor) -> Tensor:
    if isinstance(eps, Tensor):
        return leaf.budget(eps, x)
    if isinstance(eps, Sequence):
        if min(eps) < 0 or len(eps) != x.shape[leaf.channel_dim]:
            raise InputError(f"eps {tuple(eps)} for {x.shape[leaf.channel_dim]} channels", where="attack",
                             fix="give one non-negative budget per channel")  # fmt: skip
        return leaf.budget(1.0, x) * leaf.along_channels(tuple(map(float, eps)), x)
    if eps < 0:
        raise InputError(f"eps {eps} is negative", where="attack", fix="give a budget of 0 or more units")
    return leaf.budget(float(eps), x)


def _reach(x: Tensor, radius: Tensor) -> Tensor:
    """The radius less what the rounding of ``x + radius`` may add to it."""
    coarse = torch.finfo(x.dtype).bits < 32  # there a bound over all elements would eat the whole budget
    size = x.abs() if coarse else x.abs().amax()
    return (radius - torch.finfo(x.dtype).eps * (size + radius)).clamp(min=0.0)


def per_sample_norm(x: Tensor) -> Tensor:
    """L2 norm of each sample, shape (B, 1, ...), never zero so that it may be divided by."""
    norm: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return norm.clamp(min=torch.finfo(x.dtype).tiny).view(-1, *([1] * (x.ndim - 1)))


def uniform(shape: Sequence[int], generator: Generator, *, like: Tensor) -> Tensor:
    """Draws from [0, 1) made on the generator's device, with dtype and device of ``like``."""
    return torch.rand(tuple(shape), generator=generator, device=generator.device).to(like)
