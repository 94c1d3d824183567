"""What weight perturbations share: the ascent gradient, the same on every process."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from holdfast.attacks.autograd import gradients
from holdfast.core.errors import NoEffectError
from holdfast.methods.handover import internal_scale

__all__ = ["ascent_gradient", "joint_norm"]


def ascent_gradient(
    parameters: Mapping[str, Tensor], loss: Callable[[Mapping[str, Tensor]], Tensor], *, who: str,
) -> dict[str, Tensor]:  # fmt: skip
    """Gradient of the loss at the parameters, by name; averaged over processes, so that all move alike.

    Raises:
        NoEffectError: the loss does not depend on any parameter.
    """
    # Points of their own, so that hooks on parameters do not take part.
    points = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    value = loss(points)
    scale = internal_scale(value)
    found = gradients((value,), tuple(points.values()), (torch.full_like(value, scale),))
    ascent = {name: g for name, g in zip(points, found, strict=True) if g is not None}
    if scale != 1:
        ascent = {name: g / scale for name, g in ascent.items()}
    if not ascent:
        raise NoEffectError("the loss depends on no parameter that is trained", where=who)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for gradient in ascent.values():
            torch.distributed.all_reduce(gradient, op=torch.distributed.ReduceOp.SUM)
            gradient /= torch.distributed.get_world_size()
    return ascent


def joint_norm(tensors: Mapping[str, Tensor]) -> Tensor:
    """L2 norm over all elements of all tensors, never zero so that it may be divided by."""
    values = list(tensors.values())
    if min([t.dtype.itemsize for t in values]) >= 4:
        norms = torch._foreach_norm(values)
    else:  # squares of half precision need more room
        norms = tuple(torch.linalg.vector_norm(t, dtype=torch.promote_types(t.dtype, torch.float32)) for t in values)
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return norm.clamp(min=torch.finfo(torch.float32).tiny)
