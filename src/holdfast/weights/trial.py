"""A model that carries other weights for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from holdfast.weights.tree import State, unwrap

__all__ = ["copy_state", "with_weights"]


@contextlib.contextmanager
def with_weights(model: nn.Module, state: State) -> Iterator[nn.Module]:
    """The unwrapped ``model`` with other weights, in eval mode; its own weights and modes come back afterwards."""
    inner = unwrap(model)
    own = copy_state(inner)
    modes = {module: module.training for module in inner.modules()}
    try:
        inner.load_state_dict(dict(state))
        yield inner.eval()
    finally:
        inner.load_state_dict(own)
        for module, training in modes.items():
            module.training = training


def copy_state(model: nn.Module) -> dict[str, Any]:
    """The model's state dict in memory of its own."""
    state = model.state_dict()
    return {name: value.detach().clone() if isinstance(value, Tensor) else value for name, value in state.items()}
