"""The set an attack may choose from: a ball in sensor units around the clean input, inside the valid range."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeAlias, TypeVar

import torch
from torch import Generator, Tensor

from holdfast.attacks.samples import Norm, along, by_sample, per_sample_norm, uniform
from holdfast.core.errors import InputError
from holdfast.core.space import Leaf

__all__ = ["Ball", "Budget"]

Budget: TypeAlias = float | Tensor | Sequence[float] | Mapping[str, Any]
"""``eps`` in units of the leaf: a number, one per channel, a tensor (B,) with one per sample, or any by leaf path."""

INWARD = 1e-5
"""Share by which an L2 projection ends inside, so that the promise survives the rounding of its own length."""


T = TypeVar("T")


class _once(Generic[T]):  # noqa: N801 - used as a decorator, like `property`
    """A property that is computed when first asked for; `functools.cached_property` locks in Python 3.11."""

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self.compute, self.name, self.__doc__ = compute, compute.__name__, compute.__doc__

    def __get__(self, owner: Any, kind: type) -> T:
        if owner is None:
            return self  # type: ignore[return-value]  # asked of the class, by tools that read docstrings
        found = vars(owner)[self.name] = self.compute(owner)
        return found


@dataclass(frozen=True, kw_only=True)
class Ball:
    r"""``{z : ||(z - x) / radius|| <= 1, low <= z <= high}``, all in stored values.

    What is the same for all elements is a number, anything else a tensor that is broadcastable against ``x``. With one
    number for ``eps`` the L2 ball is ``||(z - x) / unit||_2 <= eps`` over all elements of a sample.

    Args:
        x: clean tensor, float (B, ...).
        norm: ``"linf"`` or ``"l2"``.
        unit: stored size of one unit.
        radius: stored size of the budget.
        low: smallest valid value.
        high: largest valid value.
    """

    x: Tensor
    norm: Norm
    unit: float | Tensor
    radius: float | Tensor
    low: float | Tensor
    high: float | Tensor

    @classmethod
    def around(cls, x: Tensor, *, eps: Any, norm: Norm, leaf: Leaf) -> Ball:
        """The ball of ``eps`` (see `Budget`) around ``x``.

        Raises:
            InputError: a negative budget, a tensor that is not floating point, an unknown norm.
        """
        if not x.is_floating_point():
            raise InputError(f"dtype {x.dtype} cannot be perturbed", where="attack", fix="convert it to float")
        if norm not in ("linf", "l2"):
            raise InputError(f"unknown norm {norm!r}", where="attack", fix="use 'linf' or 'l2'")
        x = x.detach()
        return cls(x=x, norm=norm, unit=leaf.budget(1.0, x), radius=_radius(eps, leaf, x),
                   low=leaf.stored(leaf.low, x), high=leaf.stored(leaf.high, x))  # fmt: skip

    @classmethod
    def joined(cls, balls: Sequence[Ball]) -> Ball:
        """One ball over the concatenated elements of several, shape (B, n)."""
        names = [field.name for field in fields(cls) if field.name != "norm"]
        flat = {name: [_filled(getattr(ball, name), ball.x).flatten(1) for ball in balls] for name in names}
        joint = cls(norm=balls[0].norm, **{name: torch.cat(parts, dim=1) for name, parts in flat.items()})
        pairs = zip(*(ball.bounds for ball in balls), strict=True)  # of each leaf: rounding depends on its size
        vars(joint)["bounds"] = tuple(torch.cat([bound.flatten(1) for bound in pair], dim=1) for pair in pairs)
        return joint

    def take(self, rows: Tensor) -> Ball:
        """The ball of some of the samples, int64 (n,)."""
        names = [field.name for field in fields(self) if field.name != "norm"]
        taken = Ball(norm=self.norm, **{name: _rows_of(getattr(self, name), rows, self.x) for name in names})
        # Computed once and handed on: samples that stay see the same bounds to the last bit.
        vars(taken)["bounds"] = tuple(_rows_of(bound, rows, self.x) for bound in self.bounds)
        if self.norm == "l2":
            vars(taken)["_share"] = _rows_of(self._share, rows, self.x)
        return taken

    @property
    def range(self) -> tuple[Any, Any]:
        """Smallest and largest valid values, both numbers or both tensors."""
        return self.low, self.high

    @_once
    def bounds(self) -> tuple[Tensor, Tensor]:
        """Smallest and largest admissible values, widened where ``x`` leaves the valid range by rounding.

        With ``"linf"`` they are the ball; the radius is shortened by what the rounding of ``x + radius`` may add.
        """
        x = self.x
        if self.norm == "l2":
            return x.clamp(max=self.low), x.clamp(min=self.high)
        low, high = (x - self.reach).clamp_(min=self.low), (x + self.reach).clamp_(max=self.high)
        if self._range_around_x:
            return low, high
        return torch.minimum(low, x, out=low), torch.maximum(high, x, out=high)

    @_once
    def reach(self) -> float | Tensor:
        """The radius less what the rounding of ``x + radius`` may add to it."""
        rounding = torch.finfo(self.x.dtype)
        # In half precision a bound over all elements would eat the whole budget.
        size = self.x.abs() if rounding.bits < 32 else self._largest
        return _positive(self.radius - rounding.eps * (size + self.radius))

    @_once
    def _share(self) -> float | Tensor:
        """Share of an L2 budget that is used: ``x + delta`` rounds each element, by half a unit in the last place.

        In half precision this would eat the whole budget, and is left out.
        """
        rounding = torch.finfo(self.x.dtype)
        if rounding.bits < 32 or not self.x.numel():
            return 1.0 - INWARD
        error = 0.5 * rounding.eps * self._largest * math.sqrt(self.x[0].numel())
        radius = self.radius
        if isinstance(radius, Tensor):  # the smallest of a sample that is not zero
            radius = by_sample(radius.where(radius > 0, torch.inf).flatten(1).amin(1), self.x)
        return _positive(1.0 - INWARD - error / radius) if isinstance(radius, Tensor) or radius else 0.0

    @_once
    def _largest(self) -> float | Tensor:
        """The largest magnitude in ``x``."""
        if self._extent is not None:
            return max(map(abs, self._extent))
        lowest, highest = torch.aminmax(self.x)
        return torch.maximum(lowest.abs(), highest.abs())

    @_once
    def _extent(self) -> tuple[float, float] | None:
        """Smallest and largest value of ``x``; not asked where the answer would be waited for."""
        if self.x.device.type != "cpu" or not self.x.numel():
            return None
        return float(self.x.amin()), float(self.x.amax())  # two passes are faster than torch's single one

    @property
    def _range_around_x(self) -> tuple[float, float] | None:
        """The valid range if all of ``x`` is known to be in it and it is the same for all elements."""
        if isinstance(self.low, Tensor) or isinstance(self.high, Tensor) or self._extent is None:
            return None
        return (self.low, self.high) if self.low <= self._extent[0] and self._extent[1] <= self.high else None

    @_once
    def room(self) -> tuple[Tensor, Tensor]:
        """How far ``x`` may fall and rise inside the valid range, in budgets."""
        return self.budgets(self.x - self.low), self.budgets(self.high - self.x)

    def project(self, z: Tensor) -> Tensor:
        """The nearest admissible tensor, a new one."""
        if self.norm == "l2":
            return self._issue(self._shortened(z - self.x))
        return self._issue(z.clamp(*self.bounds).to(self.x.dtype))

    def _shortened(self, delta: Tensor) -> Tensor:
        """``x + delta`` projected to the L2 ball, in the memory of ``delta``."""
        if not isinstance(self.radius, Tensor):  # one budget for all needs no division
            shrink = (self.radius * self._share / per_sample_norm(delta)).clamp(max=1.0)
        else:
            delta = self.budgets(delta)
            shrink = self.radius * (self._share / per_sample_norm(delta)).clamp(max=1.0)
        z = torch.addcmul(self.x, delta, shrink, out=delta)
        return z.clamp_(*(self._range_around_x or self.bounds)).to(self.x.dtype)

    def _issue(self, z: Tensor, *, finite: bool = False) -> Tensor:
        """``z``, remembered as admissible, and perhaps as finite, while nobody writes to it."""
        vars(self)["_issued"] = (weakref.ref(z), z._version, finite)
        return z

    def vouches_for(self, z: Tensor) -> bool:
        """Whether ``z`` is known to be admissible and finite, so that it need not be projected; no device is asked."""
        issued, version, finite = vars(self).get("_issued", (lambda: None, 0, False))
        if issued() is not z or z._version != version:
            return False
        return finite or (z.device.type == "cpu" and math.isfinite(float(z.sum())))

    def scaled(self, z: Tensor) -> Tensor:
        """``(z - x) / radius``, a new tensor; 0 where the radius is 0."""
        return self.budgets(z - self.x)

    def budgets(self, difference: Tensor) -> Tensor:
        """``difference / radius``, a new tensor; 0 where the radius is 0."""
        if isinstance(self.radius, Tensor):
            return difference * ((self.radius > 0) / self.radius.clamp(min=torch.finfo(self.radius.dtype).tiny))
        return difference * (1.0 / self.radius if self.radius else 0.0)

    def start(self, generator: Generator) -> Tensor:
        """A random admissible tensor: uniform in the L-infinity ball; random direction, radius uniform, in L2."""
        if self.norm == "linf":
            noise = uniform(self.x.shape, generator, like=self.x, low=-1.0)
            spare = noise if noise.stride() == self.x.stride() else None  # the memory format is kept
            return self._issue(along(self.x, noise, self.radius, out=spare).clamp_(*self.bounds))
        direction = _direction(self.x, generator)
        length = uniform((len(self.x), *([1] * (self.x.ndim - 1))), generator, like=self.x)
        return self.project(self.x + self.radius * (direction * length))

    def edge(self, generator: Generator) -> Tensor:
        """A random tensor at the full budget, projected: uniform, scaled to the sphere of the norm."""
        if self.norm == "l2":
            return self.project(self.x + self.radius * _direction(self.x, generator))
        noise = uniform(self.x.shape, generator, like=self.x, low=-1.0)
        largest = noise.abs().flatten(1).amax(1).clamp(min=torch.finfo(noise.dtype).tiny)
        return self.project(self.x + self.radius * noise / by_sample(largest, noise))

    def ascend(self, z: Tensor, gradient: Tensor, step: float | Tensor, *, spare: Tensor | None = None) -> Tensor:
        """One step of steepest ascent of length ``step`` (stored values), projected; a zero gradient moves nothing.

        ``spare``, a tensor like ``z`` that nobody needs any more, may become the result: memory is what a step costs.
        """
        if self.norm == "linf":
            moved = torch.sign(gradient, out=spare)
            return self._issue(along(z, moved, step, out=moved).clamp_(*self.bounds))
        direction = self.radius * gradient if isinstance(self.radius, Tensor) else gradient
        moved = torch.addcmul(z, direction, step / per_sample_norm(direction))
        return self._issue(self._shortened(moved.sub_(self.x)))

    def peak(self, gradient: Tensor, *, spare: Tensor | None = None) -> Tensor:
        """One step of steepest ascent from ``x`` of the length of the budget; ``spare`` as in `ascend`."""
        inside = self._range_around_x
        if inside and self.norm == "l2" and not isinstance(self.radius, Tensor):
            length = (self.radius * self._share / per_sample_norm(gradient)).clamp(max=torch.finfo(gradient.dtype).max)
            return self._issue(torch.addcmul(self.x, gradient, length, out=spare).clamp_(*inside))
        if inside and self.norm == "linf":
            moved = torch.sign(gradient, out=spare)
            # The sign of NaN is 0: what began in a finite range ends in it.
            finite = isinstance(self.reach, float) and math.isfinite(self.reach + inside[1] - inside[0])
            return self._issue(along(self.x, moved, self.reach, out=moved).clamp_(*inside), finite=finite)
        return self.ascend(self.x, gradient, self.radius, spare=spare)


def _direction(x: Tensor, generator: Generator) -> Tensor:
    """Uniform on the unit sphere of each sample."""
    noise = torch.randn(x.shape, generator=generator, device=generator.device).to(x)
    return noise / per_sample_norm(noise)


def _positive(value: float | Tensor) -> float | Tensor:
    return value.clamp(min=0.0) if isinstance(value, Tensor) else max(value, 0.0)


def _filled(value: float | Tensor, x: Tensor) -> Tensor:
    """The value for each element of ``x``."""
    return value.expand_as(x) if isinstance(value, Tensor) else torch.full_like(x, value)


def _rows_of(value: Any, rows: Tensor, x: Tensor) -> Any:
    """The rows of a tensor that has one for each sample of ``x``; others, and numbers, are shared by all samples."""
    own = isinstance(value, Tensor) and value.ndim == x.ndim and len(value) == len(x)
    return value[rows] if own else value


def _radius(eps: Any, leaf: Leaf, x: Tensor) -> float | Tensor:
    if isinstance(eps, Tensor):
        return leaf.budget(eps, x)
    if hasattr(eps, "__len__"):
        if min(eps) < 0 or len(eps) != x.shape[leaf.channel_dim]:
            raise InputError(f"eps {tuple(eps)} for {x.shape[leaf.channel_dim]} channels", where="attack",
                             fix="give one non-negative budget per channel")  # fmt: skip
        return leaf.budget(1.0, x) * leaf.along_channels(tuple(map(float, eps)), x)
    if eps < 0:
        raise InputError(f"eps {eps} is negative", where="attack", fix="give a budget of 0 or more units")
    return leaf.budget(float(eps), x)
