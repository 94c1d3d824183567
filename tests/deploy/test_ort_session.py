from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from holdfast.core.contracts import PrecisionPlan
from holdfast.core.errors import BackendError
from holdfast.deploy.casts import write_typed
from holdfast.deploy.export import export_onnx
from holdfast.deploy.fold import agreement_db
from holdfast.deploy.ort_session import OrtSession, executed_in


@pytest.mark.parametrize(
    ("operators", "executed"),
    [
        (["QLinearConv", "QGemm", "Relu"], "int8"),
        (["MatMulIntegerToFloat", "QLinearAdd"], "int8"),
        (["QLinearConv", "FusedConv", "Gemm"], "int8 (1 of 3 matrix nodes)"),
        (["DequantizeLinear", "Conv"], "fp32"),
        (["Add"], "fp32"),
    ],
)
def test_what_executed_is_read_from_the_fused_graph(operators: list[str], executed: str) -> None:
    nodes = [helper.make_node(kind, ["x"], ["y"]) for kind in operators]
    assert executed_in(_model(nodes), "int8") == executed


def _model(nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    entries = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    return helper.make_model(helper.make_graph(nodes, "g", entries[:1], entries[1:]))


def test_halves_are_stored_but_not_computed_with(conv_net, images, graphs) -> None:
    graph = export_onnx(conv_net(0), (images[:2],), graphs).path
    typed = write_typed(graph, PrecisionPlan(default="fp16"), graphs)
    session = OrtSession(typed, precision="fp16", threads=1)
    assert session.executed_precision() == "fp32"
    exact = OrtSession(graph, precision="fp32", threads=1)(images)["scores"]
    assert 50 < agreement_db([exact], [session(images)["scores"]]) < 90
    stamp = typed.stat().st_mtime_ns
    assert write_typed(graph, PrecisionPlan(default="fp16"), graphs).stat().st_mtime_ns == stamp


def test_the_layout_may_come_from_elsewhere(conv_net, images, graphs) -> None:
    graph = export_onnx(conv_net(0), (images[:2],), graphs).path
    session = OrtSession(graph, precision="fp32", threads=1, layout={"tuple": ["tensor", "tensor"]})
    assert isinstance(session(images), tuple)
    session.close()
    with pytest.raises(BackendError, match="closed"):
        session(images)
