"""Forwards of submodules that go through somebody else first: to round, to remember, to serve what is known."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn

__all__ = ["Visit", "visited"]

Visit = Callable[..., Any]


@contextmanager
def visited(modules: Collection[nn.Module], visit: Visit) -> Iterator[None]:
    """Within the context each module's forward is ``visit(module, forward, *args, **kwargs)``; then as it was.

    A forward that was replaced on the instance before is replaced again, not lost.

    Args:
        modules: whose forwards go through ``visit``; a module's own hooks run around it.
        visit: is given the module and its forward, and returns what the caller will see.
    """
    before = [module.__dict__.get("forward") for module in modules]
    try:
        for module in modules:
            module.__dict__["forward"] = partial(visit, module, module.forward)
        yield
    finally:
        for module, forward in zip(modules, before, strict=True):
            if forward is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = forward
