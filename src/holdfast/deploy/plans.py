"""Precision plans: what a back-end must refuse."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.core.contracts import PrecisionPlan
from holdfast.core.errors import BackendError

__all__ = ["require"]


def require(plan: PrecisionPlan, supported: Sequence[str], *, where: str, exceptions: Sequence[str] = ()) -> None:
    """Refuse a plan that the back-end could only ignore.

    Args:
        plan: what is asked for.
        supported: precisions of a whole graph.
        where: name of the back-end.
        exceptions: precisions that single nodes may be given instead.

    Raises:
        BackendError: a precision it does not have, listing those it has, or exceptions it cannot make.
    """
    if plan.default not in supported:
        raise BackendError(f"no precision {plan.default!r}", where=where, fix=f"one of {', '.join(supported)}")
    if odd := sorted(set(plan.nodes.values()) - set(exceptions)):
        able = f"single nodes can run in {', '.join(exceptions)}" if exceptions else "all nodes run in one precision"
        raise BackendError(f"no precision {', '.join(odd)} for single nodes", where=where, fix=able)
