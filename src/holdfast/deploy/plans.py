"""Precision plans: what a back-end must refuse, and how what really executed is put in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from holdfast.core.contracts import PrecisionPlan
from holdfast.core.errors import BackendError

__all__ = ["executed", "require"]


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


def executed(requested: str, matrix_nodes: Sequence[str]) -> str:
    """What executed, from the precisions of the nodes that multiply.

    Args:
        requested: what was asked for.
        matrix_nodes: precision of each convolution and matrix product as the runtime reports it.

    Returns:
        ``requested`` where all nodes have it, ``"int8 (3 of 5 matrix nodes)"`` where some have, else the precision
        that most of them have; ``fp32`` where nothing multiplies.
    """
    counts = Counter(matrix_nodes)
    if counts[requested]:
        share = f" ({counts[requested]} of {len(matrix_nodes)} matrix nodes)"
        return requested + (share if counts[requested] < len(matrix_nodes) else "")
    return counts.most_common(1)[0][0] if counts else "fp32"
