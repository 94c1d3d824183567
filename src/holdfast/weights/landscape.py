"""The loss around a point in weight space: random rays, SAM sharpness, and the largest curvature."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from holdfast.core.errors import InputError, NoEffectError

__all__ = ["Curvature", "hessian_top", "radius_of_rise", "random_direction", "ray", "sam_sharpness"]

Weights: TypeAlias = Mapping[str, Tensor]
Loss: TypeAlias = Callable[[Weights], Tensor]
"""``parameters by name -> loss, shape ()``, e.g. through `torch.func.functional_call`."""


def random_direction(parameters: Weights, generator: torch.Generator, *, filter_normalised: bool) -> dict[str, Tensor]:
    """A direction in weight space.

    Plain: uniform on the unit sphere over all parameters. Filter-normalised (Li et al. 2018, section 4): each row of a
    weight of two or more dimensions gets the norm of the model's row, parameters of one dimension stay where they
    are; then networks whose function does not depend on the scale of their weights can be compared.

    Args:
        parameters: where the ray begins; they give shapes and norms.
        generator: on the CPU.
        filter_normalised: which of the two.
    """
    drawn = {name: torch.randn(value.shape, generator=generator).to(value) for name, value in parameters.items()}
    if not filter_normalised:
        length = math.sqrt(sum(float(value.double().square().sum()) for value in drawn.values()))
        return {name: value / length for name, value in drawn.items()}
    return {name: _filters_like(drawn[name], value.detach()) for name, value in parameters.items()}


def _filters_like(direction: Tensor, weight: Tensor) -> Tensor:
    if weight.ndim < 2:
        return torch.zeros_like(weight)
    shape = (-1, *([1] * (weight.ndim - 1)))
    ratio: Tensor = weight.flatten(1).norm(dim=1) / direction.flatten(1).norm(dim=1).clamp_min(1e-12)
    filters: Tensor = direction * ratio.view(shape)
    return filters


def ray(loss: Loss, parameters: Weights, direction: Weights, radii: Sequence[float]) -> list[float]:
    """``L(w + s d) - L(w)`` at every radius ``s``.

    Args:
        loss: see `Loss`; it should be the same function at every call.
        parameters: ``w``.
        direction: ``d``, from `random_direction` or any other.
        radii: values of ``s``.
    """
    with torch.no_grad():
        base = float(loss(parameters))
        return [float(loss({k: w + s * direction[k] for k, w in parameters.items()})) - base for s in radii]


def radius_of_rise(radii: Sequence[float], rises: Sequence[float], rise: float = 0.1) -> float:
    """The first radius at which the loss has risen by ``rise``, interpolated; infinite if it never does.

    Args:
        radii: ascending and positive.
        rises: from `ray`.
        rise: default 0.1.
    """
    before = (0.0, 0.0)
    for radius, value in zip(radii, rises, strict=True):
        if not value < rise:
            step = value - before[1]
            share = (rise - before[1]) / step if math.isfinite(step) and step > 0 else 1.0
            return before[0] + share * (radius - before[0])
        before = (radius, value)
    return math.inf


def sam_sharpness(loss: Loss, parameters: Weights, *, rho: float = 0.05, adaptive: bool = False,
                  eta: float = 0.01) -> float:  # fmt: skip
    r"""The rise of the loss after one normalised ascent step, ``L(w + e) - L(w)``.

    ``e = rho g / ||g||`` (Foret et al. 2021, equation 2); adaptive: ``e = rho T^2 g / ||T g||`` with ``T = |w| + eta``
    (Kwon et al. 2021, equation 7), which does not depend on the scale of the weights.

    Args:
        loss: see `Loss`.
        parameters: ``w``.
        rho: radius. Default 0.05; for the adaptive form 0.5 to 2.
        adaptive: default False.
        eta: keeps ``T`` away from zero.

    Raises:
        InputError: a radius that is not positive.
        NoEffectError: the loss depends on no parameter.
    """
    if rho <= 0:
        raise InputError(f"rho {rho} is not positive", where="SAM sharpness", fix="use 0.05")
    base, gradients, leaves = _gradients(loss, parameters, graph=False)
    scale = {name: leaves[name].detach().abs() + eta if adaptive else torch.ones_like(g)
             for name, g in gradients.items()}  # fmt: skip
    norm = math.sqrt(sum(float((scale[name] * g).double().square().sum()) for name, g in gradients.items()))
    if norm == 0:
        return 0.0
    moved = {
        name: w.detach() + rho * scale[name].square() * gradients[name] / norm if name in gradients else w.detach()
        for name, w in parameters.items()
    }
    with torch.no_grad():
        return float(loss(moved)) - float(base)


@dataclass(frozen=True, kw_only=True)
class Curvature:
    """The largest eigenvalue of a Hessian.

    Args:
        value: the Rayleigh quotient of the last iterate.
        iterations: Hessian-vector products made.
        converged: whether it had settled to the tolerance.
    """

    value: float
    iterations: int
    converged: bool


def hessian_top(loss: Loss, parameters: Weights, generator: torch.Generator, *, iterations: int = 50,
                tolerance: float = 1e-3) -> Curvature:  # fmt: skip
    """The largest eigenvalue of the loss's Hessian, by power iteration on Hessian-vector products (double backward).

    Power iteration finds the eigenvalue of largest size. Where that is negative, ``-c``, it is run again on
    ``H + c``, whose largest is ``c`` above the one asked for.

    Args:
        loss: see `Loss`; twice differentiable almost everywhere, on a fixed batch in eval mode.
        parameters: where.
        generator: of the first vector, on the CPU.
        iterations: at most so many products in each run. Default 50.
        tolerance: relative change at which it has settled. Default 1e-3.

    Raises:
        NoEffectError: the loss depends on no parameter.
    """
    _, gradients, leaves = _gradients(loss, parameters, graph=True)
    names = list(gradients)
    flat = torch.cat([gradients[name].flatten() for name in names])

    def product(v: Tensor, shift: float) -> Tensor:
        if not flat.requires_grad:  # the loss is linear
            return shift * v
        found = torch.autograd.grad(flat, [leaves[n] for n in names], v, retain_graph=True, allow_unused=True)
        return shift * v + torch.cat([
            torch.zeros_like(leaves[n]).flatten() if g is None else g.flatten()
            for n, g in zip(names, found, strict=True)
        ])  # fmt: skip

    start = torch.randn(len(flat), generator=generator).to(flat.detach())
    first = _power(lambda v: product(v, 0.0), start, iterations, tolerance)
    if first.value >= 0:
        return first
    again = _power(lambda v: product(v, -first.value), start, iterations, tolerance)
    return Curvature(value=again.value + first.value, iterations=first.iterations + again.iterations,
                     converged=first.converged and again.converged)  # fmt: skip


def _power(product: Callable[[Tensor], Tensor], start: Tensor, iterations: int, tolerance: float) -> Curvature:
    v, value = start / start.norm(), 0.0
    for count in range(1, iterations + 1):
        image = product(v)
        before, value = value, float(v @ image)
        length = float(image.norm())
        if length == 0:
            return Curvature(value=0.0, iterations=count, converged=True)
        v = image / length
        if count > 1 and abs(value - before) <= tolerance * abs(value):
            return Curvature(value=value, iterations=count, converged=True)
    return Curvature(value=value, iterations=iterations, converged=False)


def _gradients(loss: Loss, parameters: Weights, *, graph: bool) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """The loss, its gradients by name where it has one, and the leaves they were taken at."""
    with torch.enable_grad():
        leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
        value = loss(leaves)
        if not value.requires_grad:
            raise NoEffectError("the loss depends on no parameter", where="landscape", fix="look at the loss")
        found = torch.autograd.grad(value, list(leaves.values()), create_graph=graph, allow_unused=True)
    gradients = {name: g for name, g in zip(leaves, found, strict=True) if g is not None}
    return value.detach(), gradients, leaves
