"""Arithmetic on batches in which every sample stands alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Generator, Tensor

__all__ = ["Norm", "along", "by_sample", "per_sample_length", "per_sample_norm", "uniform"]

Norm: TypeAlias = Literal["linf", "l2"]


def along(z: Tensor, direction: Tensor, step: float | Tensor, *, out: Tensor | None = None) -> Tensor:
    """``z + step * direction``."""
    if isinstance(step, Tensor):
        return torch.addcmul(z, direction, step, out=out)
    return torch.add(z, direction, alpha=step, out=out)


def by_sample(values: Tensor, like: Tensor) -> Tensor:
    """Values (B,) broadcastable against ``like`` (B, ...)."""
    return values.view(-1, *([1] * (like.ndim - 1)))


def per_sample_norm(x: Tensor) -> Tensor:
    """L2 norm of each sample, shape (B, 1, ...), never zero so that it may be divided by."""
    norm: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return by_sample(norm.clamp(min=torch.finfo(x.dtype).tiny), x)


def per_sample_length(x: Tensor, norm: Norm) -> Tensor:
    """Length of each sample in a norm, (B,)."""
    flat = x.flatten(1)
    return flat.abs().amax(1) if norm == "linf" else torch.linalg.vector_norm(flat, dim=1)


def uniform(shape: Sequence[int], generator: Generator, *, like: Tensor, low: float = 0.0) -> Tensor:
    """Draws from [low, 1) made on the generator's device, with dtype and device of ``like``."""
    draws = torch.empty(tuple(shape), device=generator.device).uniform_(low, 1.0, generator=generator)
    return draws.to(like)
