"""Checkpoints kept in memory during training, the untrained one first, in anybody's loop."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from holdfast.core.errors import InputError
from holdfast.weights.tree import unwrap

__all__ = ["Checkpoints"]


class Checkpoints:
    """States of one model by epoch; epoch 0, before the first optimiser step, is taken by making the object.

    Modules that are lazy (`torch.nn.LazyLinear` and its kin) have no weights yet. Each is taken at its first call,
    after its weights are drawn and before anything is trained; so the line stands where the model is built, lazy or
    not, before the optimiser.

    Args:
        model: the model, wrapped or not, untrained; for a fine-tuning with its pre-trained weights.

    Example:
        >>> kept = Checkpoints(model)
        >>> train_one_epoch(model)
        >>> kept.keep(1)
        >>> kept[0]["head.weight"]
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = unwrap(model)
        self._states: dict[int, dict[str, Tensor]] = {0: {}}
        self._waiting: dict[nn.Module, list[str]] = {}
        self._handles: dict[nn.Module, RemovableHandle] = {}
        self._copies: dict[int, Tensor] = {}
        for name, module in self._model.named_modules(remove_duplicate=False):
            if not any(is_lazy(tensor) for tensor in _own(module).values()):
                self._take(name, module)
            elif module in self._waiting:
                self._waiting[module].append(name)
            else:
                self._waiting[module] = [name]
                # It stands behind the module's own hook, which draws the weights.
                self._handles[module] = module.register_forward_pre_hook(lambda module, _: self._drawn(module))

    def _drawn(self, module: nn.Module) -> None:
        for name in self._waiting.pop(module):
            self._take(name, module)
        self._handles.pop(module).remove()

    def _take(self, name: str, module: nn.Module) -> None:
        for key, tensor in _own(module).items():
            copy = self._copies.setdefault(id(tensor), tensor.detach().clone())  # shared weights stay shared
            self._states[0][f"{name}.{key}" if name else key] = copy

    def keep(self, epoch: int) -> None:
        """Keep the model as it is now.

        Raises:
            InputError: epoch 0 or less, or an epoch that is kept already.
        """
        if epoch in self._states or epoch < 0:
            raise InputError(f"epoch {epoch} is kept already or negative", where="Checkpoints",
                             fix=f"kept are {sorted(self._states)}; keep each epoch once")  # fmt: skip
        state = self._model.state_dict()
        self._states[epoch] = {name: value.detach().clone() for name, value in state.items() if _is(value)}

    def __getitem__(self, epoch: int) -> dict[str, Tensor]:
        """The state dict of an epoch.

        Raises:
            InputError: it was not kept, or a lazy module has not been called yet.
        """
        if epoch not in self._states:
            raise InputError(f"epoch {epoch} was not kept", where="Checkpoints", fix=f"kept are {sorted(self._states)}")
        if epoch == 0 and self._waiting:
            names = sorted(name for names in self._waiting.values() for name in names)
            raise InputError(f"{names[0]!r} is lazy and was never called", where="Checkpoints",
                             fix="ask after the first forward")  # fmt: skip
        order = list(self._model.state_dict()) if epoch == 0 else list(self._states[epoch])
        return {name: self._states[epoch][name] for name in order if name in self._states[epoch]}

    @property
    def epochs(self) -> list[int]:
        """Epochs that are kept."""
        return sorted(self._states)


def _own(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers of the module itself."""
    buffers = {k: v for k, v in module._buffers.items() if k not in module._non_persistent_buffers_set}
    return {key: value for key, value in {**module._parameters, **buffers}.items() if value is not None}


def _is(value: Any) -> bool:
    return isinstance(value, Tensor)
