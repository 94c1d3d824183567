"""Model Stock: how far to go from an anchor towards the mean of a few fine-tuned models, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from holdfast.core.errors import InputError
from holdfast.weights.tree import State, check_alike, describe_state, mean

__all__ = ["merge_model_stock"]


def merge_model_stock(anchor: State, states: Sequence[State]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """``w = t mean(w_k) + (1 - t) w_0`` with ``t = K cos / (1 + (K - 1) cos)``, for each tensor.

    ``cos`` is the mean cosine of the angle between ``w_i - w_0`` and ``w_j - w_0``: aligned fine-tunes are trusted,
    orthogonal ones cancel back to the anchor. No data are needed. Jang et al. 2024, equation 7.

    Args:
        anchor: the weights from which all were fine-tuned.
        states: at least two fine-tuned states.

    Returns:
        The weights, and ``{"average", "ratio"}`` with ``t`` per tensor.

    Raises:
        InputError: fewer than two states, or states that do not fit each other.
    """
    if len(states) < 2:
        raise InputError(f"{len(states)} fine-tuned states", where="Model Stock", fix="two are the least")
    check_alike({"anchor": anchor, **{f"state {index}": state for index, state in enumerate(states)}})
    merged = mean(states)
    ratios: dict[str, float] = {}
    for entry in describe_state(merged):
        value = merged[entry.name]
        if entry.tied_to:
            merged[entry.name] = merged[entry.tied_to]
        elif value.is_floating_point():
            ratios[entry.name] = t = _ratio(anchor[entry.name], [state[entry.name] for state in states])
            merged[entry.name] = torch.lerp(anchor[entry.name].double(), value.double(), t).to(value.dtype)
    return merged, {"average": "model stock", "ratio": {name: round(t, 4) for name, t in ratios.items()}}


def _ratio(anchor: Tensor, values: Sequence[Tensor]) -> float:
    """The interpolation ratio of one tensor; 1 where nothing moved."""
    steps = torch.stack([(value.double() - anchor.double()).flatten() for value in values])
    norms = steps.norm(dim=1)
    if bool((norms == 0).any()):
        return 1.0
    products = (steps / norms[:, None]) @ (steps / norms[:, None]).T
    k = len(values)
    cosine = max(0.0, float((products.sum() - k) / (k * (k - 1))))
    return k * cosine / (1 + (k - 1) * cosine)
