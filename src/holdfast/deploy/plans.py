"""Precision plans: what a back-end must refuse, and how what really executed is put in words."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from holdfast.core.contracts import PrecisionPlan
from holdfast.core.errors import BackendError, InputError
from holdfast.core.options import call
from holdfast.core.plain import plain
from holdfast.core.store import atomic_path

__all__ = ["executed", "read_plan", "require", "write_plan"]


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


def write_plan(plan: PrecisionPlan, path: Path) -> None:
    """A plan as JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(plain(plan), indent=1), encoding="utf-8")


def read_plan(path: Path) -> PrecisionPlan:
    """A plan that `write_plan` wrote, or that somebody wrote by hand.

    Raises:
        InputError: no such file, no JSON, or an unknown key (naming the nearest).
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"is no precision plan: {error}", where=str(path)) from None
    if not isinstance(record, dict):
        raise InputError("is no precision plan: it holds no mapping", where=str(path))
    plan: PrecisionPlan = call(PrecisionPlan, record, where=str(path), build=lambda kind, spec: spec)
    return plan
