from __future__ import annotations

import itertools
import math

import onnx
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from holdfast.deploy.casts import lowerable, type_plan
from holdfast.deploy.export import export_onnx
from holdfast.deploy.graph import GraphView
from holdfast.deploy.ort import open_session, run_session
from holdfast.deploy.search import find_repair, sensitivity, smallest_set

NAMES = [f"n{i}" for i in range(12)]
_causes = st.lists(st.sets(st.sampled_from(NAMES), min_size=1, max_size=4), min_size=1, max_size=4)


@given(_causes, st.permutations(NAMES))
def test_nothing_can_be_left_out_of_what_is_found(causes: list[set[str]], ranked: list[str]) -> None:
    """Each cause is cured by any one of its members; the smallest cure hits all causes."""

    def passes(kept: frozenset[str]) -> bool:
        return all(kept & cause for cause in causes)

    found = smallest_set(ranked, passes)
    assert passes(found)
    assert not any(passes(found - {name}) for name in found)
    smallest = next(
        size for size in range(13) for kept in itertools.combinations(NAMES, size) if passes(frozenset(kept))
    )
    assert len(found) >= smallest


@given(st.sets(st.sampled_from(NAMES), max_size=5), st.permutations(NAMES))
def test_a_set_that_is_needed_whole_is_found_exactly(needed: set[str], ranked: list[str]) -> None:
    assert smallest_set(ranked, lambda kept: needed <= kept) == needed


def test_what_cannot_be_repaired_is_none() -> None:
    asked = []
    assert smallest_set(NAMES, lambda kept: bool(asked.append(kept))) is None
    assert len(asked) == 2


def test_a_good_ranking_asks_far_less_often_than_one_at_a_time() -> None:
    names = [f"n{i}" for i in range(200)]
    needed = {"n3", "n90", "n150", "n151"}
    asked = set()

    def passes(kept: frozenset[str]) -> bool:
        asked.add(kept)
        return needed <= kept

    assert smallest_set(sorted(names, key=lambda name: name not in needed), passes) == needed
    with_ranking = len(asked)
    asked.clear()
    assert smallest_set(names, passes) == needed
    one_at_a_time = sum(200 - i for i in range(len(needed)))  # try each, keep the best, again
    assert with_ranking * 5 < one_at_a_time
    assert len(asked) * 5 < one_at_a_time


class _IllConditioned(nn.Module):
    """Positions counted in absolute pixels, and a norm in pieces after large activations."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 64), nn.Linear(64, 32)
        self.register_buffer("columns", torch.arange(32) * 60.0)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu() * 500
        h = h / (h.pow(2).mean(dim=-1, keepdim=True) + 1e-5).sqrt()
        score = self.second(h).softmax(dim=-1)
        return (score * self.columns).sum(dim=-1)


def _pixels(exact: list[Tensor], lowered: list[Tensor]) -> float:
    return float((exact[0] - lowered[0]).abs().mean())


def _graph(tmp_path) -> tuple[onnx.ModelProto, Tensor]:
    torch.manual_seed(0)
    x = torch.rand(64, 16)
    return onnx.load(export_onnx(_IllConditioned().eval(), (x[:2],), tmp_path).path), x


def test_the_repair_keeps_few_nodes_and_is_confirmed_by_the_typed_graph(tmp_path) -> None:
    graph, x = _graph(tmp_path)
    repair = find_repair(graph, [(x[:32],), (x[32:],)], _pixels, limit=0.3)
    assert repair.before > 20
    assert repair.after <= 0.3
    names = lowerable(GraphView(graph))
    assert 0 < len(repair.nodes) < len(names) / 2
    kinds = {GraphView(graph).nodes[name].op_type for name in repair.nodes}
    assert "Pow" in kinds
    typed = type_plan(graph, repair.plan)
    outputs = [run_session(open_session(g.SerializeToString(), threads=1), (x,)) for g in (graph, typed)]
    assert _pixels(*outputs) <= 0.4
    one_at_a_time = sum(len(names) - i for i in range(len(repair.nodes)))
    assert repair.evaluations < one_at_a_time


def test_a_healthy_graph_needs_nothing_and_an_impossible_limit_gives_nothing(tmp_path) -> None:
    torch.manual_seed(0)
    x = torch.rand(8, 16)
    graph = onnx.load(export_onnx(nn.Sequential(nn.Linear(16, 8), nn.ReLU()).eval(), (x[:2],), tmp_path).path)
    healthy = find_repair(graph, [(x,)], _pixels, limit=0.1)
    assert (healthy.nodes, healthy.evaluations) == ((), 1)
    assert healthy.plan.default == "fp16"
    impossible = find_repair(graph, [(x,)], _pixels, limit=-1.0)
    assert impossible.plan is None


def test_sensitivity_names_the_culprits(tmp_path) -> None:
    graph, x = _graph(tmp_path)
    names = lowerable(GraphView(graph))
    found = sensitivity(graph, names, [(x[:8],)], _pixels)
    assert set(found) == set(names)
    worst = max(found, key=lambda name: math.inf if math.isnan(found[name]) else found[name])
    assert GraphView(graph).nodes[worst].op_type in ("Pow", "ReduceMean", "Sqrt", "Add")
