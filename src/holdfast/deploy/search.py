"""The smallest repair: which nodes must stay in fp32 for a gate to pass, found by splitting sets, not by prefixes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx
from torch import Tensor

from holdfast.core.contracts import PrecisionPlan
from holdfast.deploy.casts import emulate_plan, lowerable
from holdfast.deploy.graph import GraphView
from holdfast.deploy.ort import open_session, run_session

__all__ = ["Repair", "find_repair", "sensitivity", "smallest_set"]

Nodes = frozenset[str]
Damage = Callable[[list[Tensor], list[Tensor]], float]
"""``(outputs in fp32, outputs under the plan) -> damage`` in task units; NaN and infinity are never acceptable."""
Lower = Callable[[PrecisionPlan], onnx.ModelProto]
"""The graph under a plan."""


@dataclass(frozen=True, kw_only=True)
class Repair:
    """A plan and how it was found.

    Args:
        plan: the repaired plan; None where even all nodes in fp32 do not pass.
        nodes: what it keeps in fp32, by sensitivity; leaving out any one of them fails the gate.
        before, after: damage without and with the repair.
        evaluations: how often the gate was asked.
        sensitivity: damage of lowering a node alone, on the few samples of the ranking.
    """

    plan: PrecisionPlan | None
    nodes: tuple[str, ...]
    before: float
    after: float
    evaluations: int
    sensitivity: dict[str, float]


def find_repair(
    model: onnx.ModelProto, batches: Sequence[tuple[Tensor, ...]], damage: Damage, limit: float, *,
    precision: str = "fp16", ranking_samples: int = 8, names: Sequence[str] | None = None, lower: Lower | None = None,
) -> Repair:  # fmt: skip
    """The smallest set of nodes to keep in fp32 so that the damage is at most ``limit``.

    Nodes are ranked by `sensitivity` on a few samples; then the shortest sufficient prefix of the ranking is bisected
    and thinned by `smallest_set`, so that the gate is asked about ``log2(N) + 2 k log2(k)`` times for ``k`` nodes of
    ``N``. Casts are emulated (`holdfast.deploy.casts.emulate_plan`), so that it runs on any CPU; anything else that can
    be done to some nodes and not to others is given as ``names`` and ``lower``, as int8 is by
    `holdfast.deploy.quantise.Quantisation`.

    Args:
        model: the fp32 graph.
        batches: inputs on which the gate is judged.
        damage: see `Damage`.
        limit: what the gate allows.
        precision: ``fp16`` or ``bf16``, or what ``lower`` knows.
        ranking_samples: samples of the first batch on which nodes are ranked.
        names: nodes that can be lowered. Default: those that casts can lower.
        lower: gives the graph under a plan. Default: casts.
    """
    names = lowerable(GraphView(model)) if names is None else names
    lower = lower or (lambda plan: emulate_plan(model, plan))
    judge = _Judge(model, batches, damage, lower)
    asked: dict[Nodes, float] = {}

    def under(kept: Nodes) -> float:
        if kept not in asked:
            asked[kept] = judge(_plan(precision, kept))
        return asked[kept]

    few = [tuple(x[:ranking_samples] for x in batches[0])]
    ranking = sensitivity(model, names, few, damage, precision=precision, lower=lower)
    ranked = sorted(names, key=lambda name: -_worst_last(ranking[name]))
    kept = smallest_set(ranked, lambda nodes: _worst_last(under(nodes)) <= limit)
    before = under(frozenset())
    if kept is None:
        return Repair(plan=None, nodes=(), before=before, after=under(frozenset(names)), evaluations=len(asked),
                      sensitivity=ranking)  # fmt: skip
    return Repair(
        plan=_plan(precision, kept), nodes=tuple(name for name in ranked if name in kept), before=before,
        after=under(kept), evaluations=len(asked), sensitivity=ranking,
    )  # fmt: skip


def sensitivity(
    model: onnx.ModelProto, names: Sequence[str], batches: Sequence[tuple[Tensor, ...]], damage: Damage, *,
    precision: str = "fp16", lower: Lower | None = None,
) -> dict[str, float]:  # fmt: skip
    """Damage that each node does when it alone is lowered and all others stay in fp32."""
    judge = _Judge(model, batches, damage, lower or (lambda plan: emulate_plan(model, plan)))
    return {name: judge(PrecisionPlan(nodes={name: precision})) for name in names}


def smallest_set(ranked: Sequence[str], passes: Callable[[Nodes], bool]) -> Nodes | None:
    """A sufficient set from which nothing can be left out; None if the whole is not sufficient.

    First the shortest sufficient prefix of ``ranked`` is bisected, then the prefix is thinned by divide and conquer
    (U. Junker, "QuickXplain", 2004), which prefers what is ranked first. A superset of a sufficient set is taken to be
    sufficient; where that does not hold, the result still passes.

    Args:
        ranked: candidates, the most suspicious first.
        passes: whether the gate passes with these candidates kept.
    """
    if passes(frozenset()):
        return frozenset()
    if not passes(frozenset(ranked)):
        return None
    short, long = 0, len(ranked)
    while long - short > 1:
        middle = (short + long) // 2
        short, long = (short, middle) if passes(frozenset(ranked[:middle])) else (middle, long)
    # The last of the shortest sufficient prefix is needed; among the others, some may not be.
    needed = ranked[long - 1]
    others = _thin(frozenset({needed}), True, ranked[: long - 1], passes)
    return others | {needed}


def _thin(background: Nodes, grown: bool, candidates: Sequence[str], passes: Callable[[Nodes], bool]) -> Nodes:
    """The members of ``candidates`` that are needed beside ``background``; ``grown``: it changed since last asked."""
    if not candidates or (grown and passes(background)):
        return frozenset()
    if len(candidates) == 1:
        return frozenset(candidates)
    half = len(candidates) // 2
    first, second = candidates[:half], candidates[half:]
    from_second = _thin(background | set(first), True, second, passes)
    from_first = _thin(background | from_second, bool(from_second), first, passes)
    return from_first | from_second


def _plan(precision: str, kept: Nodes) -> PrecisionPlan:
    return PrecisionPlan(default=precision, nodes=dict.fromkeys(sorted(kept), "fp32"))


def _worst_last(value: float) -> float:
    return math.inf if math.isnan(value) else value


class _Judge:
    """Damage of a plan: the mean over batches, weighted by their samples."""

    def __init__(
        self, model: onnx.ModelProto, batches: Sequence[tuple[Tensor, ...]], damage: Damage, lower: Lower
    ) -> None:
        self.batches, self.damage, self.lower = batches, damage, lower
        self.exact = self._outputs(model)

    def __call__(self, plan: PrecisionPlan) -> float:
        sizes = [len(batch[0]) for batch in self.batches]
        lowered = self._outputs(self.lower(plan))
        parts = [self.damage(a, b) * n for a, b, n in zip(self.exact, lowered, sizes, strict=True)]
        return sum(parts) / sum(sizes)

    def _outputs(self, graph: onnx.ModelProto) -> list[list[Tensor]]:
        session = open_session(bytes(graph.SerializeToString()), threads=1)
        return [run_session(session, batch) for batch in self.batches]
