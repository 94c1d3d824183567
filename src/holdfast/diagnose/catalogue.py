"""The causes that `explain` knows: the plug-ins of ``diagnose/causes`` in the order in which they act on a vehicle."""

from __future__ import annotations

from functools import cache

from holdfast.core.discover import load, names
from holdfast.diagnose.cause import Cause

__all__ = ["causes"]


@cache
def causes() -> tuple[type[Cause], ...]:
    """Every cause by stage; a new file in ``diagnose/causes`` is a new cause."""
    found: list[type[Cause]] = [load("cause", name) for name in names("cause")]
    return tuple(sorted(found, key=lambda cause: cause.stage))
