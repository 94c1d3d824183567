"""The causes that `explain` knows: plug-ins of ``explain_drift/causes`` in the order in which they act on a vehicle."""

from __future__ import annotations

from functools import cache

from holdfast.core.discover import load, names
from holdfast.explain_drift.cause import Cause

__all__ = ["causes"]


@cache
def causes() -> tuple[type[Cause], ...]:
    """Every cause by stage; a new file in ``explain_drift/causes`` is a new cause."""
    found: list[type[Cause]] = [load("cause", name) for name in names("cause")]
    return tuple(sorted(found, key=lambda cause: cause.stage))
