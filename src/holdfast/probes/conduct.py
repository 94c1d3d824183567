"""A probe leaves the model and torch's random state as it found them, bit for bit; here that is seen and restored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["Witness"]


@dataclass(frozen=True, kw_only=True)
class Witness:
    """What a model and the random generator were before a probe ran.

    Args:
        state: every parameter and buffer, cloned.
        gradients: of every parameter, cloned; None where there was none.
        wanted: whether a parameter asked for gradients.
        modes: training mode by module.
        hooks: number of hooks by module.
        rng: state of torch's global generator.
    """

    state: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor | None]
    wanted: Mapping[str, bool]
    modes: Mapping[str, bool]
    hooks: Mapping[str, int]
    rng: Tensor

    @classmethod
    def of(cls, model: nn.Module) -> Witness:
        """The present state."""
        parameters = dict(model.named_parameters())
        return cls(
            state={name: value.detach().clone() for name, value in _tensors(model).items()},
            gradients={n: None if p.grad is None else p.grad.clone() for n, p in parameters.items()},
            wanted={name: parameter.requires_grad for name, parameter in parameters.items()},
            modes={name: module.training for name, module in model.named_modules()},
            hooks={name: _hooks(module) for name, module in model.named_modules()},
            rng=torch.get_rng_state(),
        )

    def differences(self, model: nn.Module) -> list[str]:
        """What is not the same bits any more, for people; empty when all is."""
        now = Witness.of(model)
        found = [f"{kind} of {name}" for kind, name in _changed(self, now)]
        return found + ([] if torch.equal(self.rng, now.rng) else ["torch's random state"])

    def restore(self, model: nn.Module) -> None:
        """Put everything back except hooks, which only their owner can take away."""
        with torch.no_grad():
            for name, value in _tensors(model).items():
                if name in self.state:
                    value.copy_(self.state[name])
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(self.wanted.get(name, True))
            parameter.grad = self.gradients.get(name)
        for name, module in model.named_modules():
            module.training = self.modes.get(name, module.training)
        torch.set_rng_state(self.rng)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, also those that no state dict holds."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _hooks(module: nn.Module) -> int:
    return len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)


def _changed(before: Witness, now: Witness) -> list[tuple[str, str]]:
    pairs = (
        ("value", before.state, now.state), ("gradient", before.gradients, now.gradients),
        ("requires_grad", before.wanted, now.wanted), ("training mode", before.modes, now.modes),
        ("hooks", before.hooks, now.hooks),
    )  # fmt: skip
    return [
        (kind, name or "the model")
        for kind, old, new in pairs
        for name in {**old, **new}
        if not _same(old.get(name), new.get(name))
    ]


def _same(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(_bits(a), _bits(b))
    return type(a) is type(b) and a == b


def _bits(x: Tensor) -> Tensor:
    """As bytes: NaN equals NaN, and -0 is not 0."""
    return x.detach().contiguous().flatten().view(torch.uint8) if x.numel() else x
