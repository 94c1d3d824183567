"""The session of a back-end whose artefact is a module in this process."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from holdfast.core.contracts import Outputs
from holdfast.core.errors import BackendError

__all__ = ["ModuleSession"]


class ModuleSession:
    """A module called without gradients.

    Args:
        module: takes and gives CPU tensors in the model's nest.
        executed: the precision that it computes in, for `executed_precision`.
        where: name of the back-end.
    """

    def __init__(self, module: nn.Module, executed: str, *, where: str) -> None:
        self._module: nn.Module | None = module
        self._executed, self._where = executed, where

    def __call__(self, *inputs: Tensor) -> Outputs:
        """Run a batch.

        Raises:
            BackendError: the session is closed.
        """
        if self._module is None:
            raise BackendError("the session is closed", where=self._where)
        with torch.no_grad():
            return self._module(*inputs)

    def executed_precision(self) -> str:
        """As it was given."""
        return self._executed

    def close(self) -> None:
        """Drop the module."""
        self._module = None
