"""Nodes of two graphs are paired by name, by a constant they share, then by order; defaults are no difference."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from holdfast.deploy.graph import GraphView
from holdfast.deploy.settings import other_settings, pair_nodes


def _graph(*nodes: onnx.NodeProto, **constants: np.ndarray) -> GraphView:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, "h", "w"]) for name in ("x", "y")]
    held = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(list(nodes), "g", ends[:1], ends[1:], held)
    return GraphView(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))


def _node(kind: str, inputs: str, output: str, name: str = "", **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), [output], name=name, **attributes)


PRIOR = np.arange(3, dtype=np.float32).reshape(3, 1, 1)


def test_nodes_that_read_the_same_constant_are_a_pair_wherever_they_stand() -> None:
    ours = _graph(_node("Add", "x prior", "a", "ours_1"), _node("Add", "a a", "y", "ours_2"), prior=PRIOR)
    theirs = _graph(_node("Add", "x x", "a", "/A"), _node("Add", "a prior", "y", "/B"), prior=2 * PRIOR)
    assert ("ours_1", "/B") in [(a.name, b.name) for a, b in pair_nodes(ours, theirs)]
    (setting,) = [s for s in other_settings(ours, theirs, (), {"prior"}) if s.node == "/B"]
    assert setting.kind == "weights"
    mended = theirs.model
    setting.put_right(mended)
    held = {entry.name: numpy_helper.to_array(entry) for entry in mended.graph.initializer}
    assert np.array_equal(held[mended.graph.node[1].input[1]], PRIOR)


def test_a_value_that_is_left_out_is_the_default() -> None:
    ours = _graph(_node("Softmax", "x", "y"))
    assert list(other_settings(ours, _graph(_node("Softmax", "x", "y", axis=-1)), (), ())) == []
    (setting,) = other_settings(ours, _graph(_node("Softmax", "x", "y", axis=1)), (), ())
    assert (setting.kind, setting.detail) == ("attribute", "Softmax: axis 1 instead of -1")


def test_axes_are_moved_about_as_exporters_like_unless_the_name_is_the_same() -> None:
    pair = [_graph(_node("Transpose", "x", "y", name, perm=perm)) for name, perm in
            (("t", [0, 1, 2, 3]), ("other", [0, 2, 1, 3]), ("t", [0, 2, 1, 3]))]  # fmt: skip
    assert list(other_settings(pair[0], pair[1], (), ())) == []
    assert [s.kind for s in other_settings(pair[0], pair[2], (), ())] == ["attribute"]


def test_an_epsilon_is_told_from_other_constants() -> None:
    def norm(eps: float, factor: float) -> GraphView:
        return _graph(
            _node("Mul", "x factor", "s"), _node("Add", "s eps", "e"), _node("Sqrt", "e", "y"),
            eps=np.array(eps, np.float32), factor=np.array(factor, np.float32),
        )  # fmt: skip

    found = list(other_settings(norm(1e-5, 2.0), norm(1e-3, 3.0), (), ()))
    assert [(s.kind, s.node) for s in found] == [("constant", "Mul_0"), ("epsilon", "Add_1")]
    assert found[1].detail == "Add: epsilon 0.001 instead of 1e-05"


def test_nodes_of_layers_are_left_to_those_who_compare_layers() -> None:
    graphs = [_graph(_node("Mul", "x w", "y"), w=value) for value in (PRIOR, PRIOR + 1)]
    assert list(other_settings(*graphs, {"Mul_0"}, ())) == []
