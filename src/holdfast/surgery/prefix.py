"""Forward passes that differ only from some layer on: what comes before is computed once and served again."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from holdfast.core.contracts import Outputs
from holdfast.surgery.visited import Visit, visited

__all__ = ["Prefix", "agrees"]

Call = Callable[[], Outputs]


@dataclass
class _Entry:
    """One call of a submodule: what it returned, and the number of the first call after it."""

    module: nn.Module
    output: Any = None
    end: int = 0
    versions: list[int] = field(default_factory=list)


class Prefix:
    """Outputs of every submodule call of one forward, from which later forwards of a changed model begin.

    When only layers from call ``k`` on have changed, every call that was complete before ``k`` returns what it
    returned before, and its submodules do not run: ``L`` layers of equal cost take ``L (L + 1) / 2`` instead of
    ``L^2`` layer calls. Outputs that the model changes in place are kept as copies. Operations between submodules
    run again. Works for any module whose control flow does not depend on values; `agrees` says whether it does.

    Args:
        model: the model, in eval mode; used under `torch.no_grad`.
        call: a forward through it on a few samples, by which its calls are numbered.
    """

    def __init__(self, model: nn.Module, call: Call) -> None:
        self.model = model
        self._changed_in_place: set[int] = set()
        self._entries: list[_Entry] = []
        self.record(call)
        self._changed_in_place = {i for i, entry in enumerate(self._entries) if _versions(entry) != entry.versions}
        self._names = {id(module): name for name, module in model.named_modules()}

    def record(self, call: Call) -> Outputs:
        """Run ``call()`` and keep what every submodule returned."""
        self._entries = []
        with self._visiting(self._keep):
            return call()

    def replay(self, call: Call, first: int) -> Outputs:
        """Run ``call()`` with every call that was complete before number ``first`` served from the record."""
        self._position = 0
        with self._visiting(partial(self._serve, first)):
            return call()

    def first_call(self, modules: Collection[str]) -> int:
        """Number of the first call that a change of ``modules`` (dotted names) can touch.

        A module that is never called may still be used by the one around it, so that one counts instead.
        """
        called: dict[str, int] = {}
        for i, entry in enumerate(self._entries):
            called.setdefault(self._names[id(entry.module)], i)
        return min((_first(name, called) for name in modules), default=len(self._entries))

    # --- visits ---

    def _visiting(self, visit: Visit) -> AbstractContextManager[None]:
        """Every submodule's forward goes through ``visit``."""
        return visited([module for module in self.model.modules() if module is not self.model], visit)

    def _keep(self, module: nn.Module, forward: Visit, *args: Any, **kwargs: Any) -> Any:
        number = len(self._entries)
        entry = _Entry(module)
        self._entries.append(entry)
        output = forward(*args, **kwargs)
        entry.output = _copy(output) if number in self._changed_in_place else output
        entry.versions = _versions(entry)
        entry.end = len(self._entries)
        return output

    def _serve(self, first: int, module: nn.Module, forward: Visit, *args: Any, **kwargs: Any) -> Any:
        number = self._position
        if number < first:
            entry = self._entries[number]
            if entry.module is not module:
                self._position = first  # another way through the model: from here on nothing is served
            elif entry.end <= first:
                self._position = entry.end
                return _copy(entry.output) if number in self._changed_in_place else entry.output
            else:
                self._position += 1
        return forward(*args, **kwargs)


def agrees(prefix: Prefix, call: Call, first: int) -> bool:
    """Whether a served forward of the model as it is now gives the bits of a full one."""
    full, served = tree_leaves(call()), tree_leaves(prefix.replay(call, first))
    return len(full) == len(served) and all(
        a.equal(b) for a, b in zip(full, served, strict=True) if isinstance(a, Tensor)
    )


def _first(name: str, called: dict[str, int]) -> int:
    while name and name not in called:
        name = name.rpartition(".")[0]
    return called.get(name, 0)


def _copy(output: Any) -> Any:
    return tree_map(lambda value: value.clone() if isinstance(value, Tensor) else value, output)


def _versions(entry: _Entry) -> list[int]:
    return [value._version for value in tree_leaves(entry.output) if isinstance(value, Tensor)]
