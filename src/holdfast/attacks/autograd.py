"""Backward passes that are given the gradients of their outputs, without torch's checks of what they are given.

`torch.autograd.grad` and `backward` look up and compare shapes and kinds in Python before they start the engine, which
takes as long as a small layer. Here callers make those gradients like the outputs. The entry is not public: a torch
that does not have it, and tensors of somebody else's kind, are served by the two public functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.overrides import has_torch_function

__all__ = ["accumulate", "gradients", "weighted_mean"]

_run: Callable[..., tuple[Tensor | None, ...]] | None = getattr(torch.autograd.graph, "_engine_run_backward", None)


def gradients(outputs: Sequence[Tensor], inputs: Sequence[Tensor],
              given: Sequence[Tensor]) -> tuple[Tensor | None, ...]:  # fmt: skip
    """``sum_i given_i^T d outputs_i / d inputs_j`` for each input, None where no output depends on it.

    Args:
        outputs: tensors with a graph.
        inputs: tensors that require a gradient.
        given: for each output the gradient with respect to it, like it in shape, dtype and device.
    """
    if _run is None or has_torch_function((*outputs, *inputs)):
        return torch.autograd.grad(outputs, inputs, given, allow_unused=True)
    return _run(tuple(outputs), tuple(given), False, False, tuple(inputs), True, accumulate_grad=False)


def accumulate(outputs: Sequence[Tensor], given: Sequence[Tensor]) -> None:
    """Add what flows back from the outputs to ``.grad`` of every leaf; arguments as of `gradients`."""
    if _run is None or has_torch_function(tuple(outputs)):
        torch.autograd.backward(outputs, given)
    else:
        _run(tuple(outputs), tuple(given), False, False, (), allow_unreachable=True, accumulate_grad=True)


def weighted_mean(loss: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """``weight * mean(loss)``, detached, and its gradient with respect to the loss: neither needs a graph.

    Args:
        loss: float (B,) or ().
        weight: factor of the mean.
    """
    share = torch.full_like(loss, weight / max(loss.numel(), 1))
    # A single operation, where that would not add halves.
    alike = loss.ndim == 1 and loss.numel() and loss.is_floating_point() and loss.itemsize > 2
    value = torch.dot(loss.detach(), share) if alike else weight * loss.detach().mean()
    return value, share
