from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from holdfast.core.contracts import PrecisionPlan
from holdfast.core.errors import BackendError
from holdfast.deploy.casts import emulate_plan, lowerable, lowered_nodes, type_plan
from holdfast.deploy.emulate import Rounding, round_to, rounded_copy
from holdfast.deploy.export import export_onnx
from holdfast.deploy.fold import agreement_db, fold_batchnorm
from holdfast.deploy.graph import GraphView
from holdfast.deploy.ort import open_session, run_session

FP16 = PrecisionPlan(default="fp16")


@pytest.fixture
def graph(conv_net, images, graphs) -> onnx.ModelProto:
    return onnx.load(export_onnx(conv_net(0), (images[:2],), graphs).path)


def _run(model: onnx.ModelProto, images: Tensor, *, optimise: bool = True) -> list[Tensor]:
    onnx.checker.check_model(model, full_check=True)
    return run_session(open_session(model.SerializeToString(), threads=1, optimise=optimise), (images,))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_graph_emulates_what_the_dispatch_mode_does(conv_net, graph, images, precision) -> None:
    folded, _ = fold_batchnorm(conv_net(0), (images[:2],))
    model = rounded_copy(folded, precision)
    with torch.no_grad(), Rounding(precision):
        eager = model(round_to(images, precision))
    emulated = _run(emulate_plan(graph, PrecisionPlan(default=precision)), images)
    exact = _run(graph, images)
    for i, name in enumerate(("scores", "features")):
        both = torch.stack([(emulated[i] - exact[i]).flatten(), (eager[name] - exact[i]).flatten()])
        assert torch.corrcoef(both)[0, 1] > 0.75
        assert both[0].norm() / both[1].norm() == pytest.approx(1, abs=0.35)


def test_the_runtime_does_not_optimise_roundings_away(graph, images) -> None:
    emulated = emulate_plan(graph, FP16)
    plain, optimised = (_run(emulated, images, optimise=o) for o in (False, True))
    assert agreement_db(plain, optimised) > 60
    assert 40 < agreement_db(_run(graph, images), optimised) < 90
    assert torch.equal(optimised[1], round_to(optimised[1], "fp16"))


def test_the_typed_graph_computes_nearly_the_same(graph, images) -> None:
    typed = type_plan(graph, FP16)
    assert {entry.data_type for entry in typed.graph.initializer if "weight" in entry.name} == {TensorProto.FLOAT16}
    assert all(
        entry.type.tensor_type.elem_type == TensorProto.FLOAT for entry in (*typed.graph.input, *typed.graph.output)
    )
    assert agreement_db(_run(emulate_plan(graph, FP16), images), _run(typed, images)) > 50


def test_nothing_lowered_is_the_same_graph(graph, images) -> None:
    plan = PrecisionPlan()
    for write in (emulate_plan, type_plan):
        assert _run(write(graph, plan), images)[0].equal(_run(graph, images)[0])


def test_exceptions_stay_in_fp32(graph, images) -> None:
    view = GraphView(graph)
    names = lowerable(view)
    assert "node_conv2d" in names
    plan = PrecisionPlan(default="fp16", nodes={"node_conv2d": "fp32"})
    assert set(lowered_nodes(view, plan)) == set(names) - {"node_conv2d"}
    typed = type_plan(graph, plan)
    conv = next(node for node in typed.graph.node if node.name == "node_conv2d")
    assert list(conv.input) == list(view.nodes["node_conv2d"].input)
    single = PrecisionPlan(nodes={"node_conv2d": "fp16"})
    assert agreement_db(_run(graph, images), _run(emulate_plan(graph, single), images)) > agreement_db(
        _run(graph, images), _run(emulate_plan(graph, plan), images)
    )
    assert _run(type_plan(graph, plan), images)[0].dtype is torch.float32


def test_all_nodes_excepted_is_fp32(graph, images) -> None:
    plan = PrecisionPlan(default="fp16", nodes=dict.fromkeys(lowerable(GraphView(graph)), "fp32"))
    assert _run(emulate_plan(graph, plan), images)[0].equal(_run(graph, images)[0])


def test_plans_that_do_not_fit_are_refused(graph) -> None:
    view = GraphView(graph)
    with pytest.raises(BackendError, match="no casts to int8"):
        lowered_nodes(view, PrecisionPlan(default="int8"))
    with pytest.raises(BackendError, match="are not there"):
        lowered_nodes(view, PrecisionPlan(nodes={"nowhere": "fp16"}))
    with pytest.raises(BackendError, match="fp16 only"):
        type_plan(graph, PrecisionPlan(default="bf16"))


def test_parameters_that_must_stay_wide_and_branches_are_respected() -> None:
    """Scales of Resize are fp32 by definition; an inner graph reads the outer tensor by its name."""
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1, 8, 8])
    scales = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")
    always = numpy_helper.from_array(np.array(True), "always")
    inner = helper.make_graph([helper.make_node("Add", ["a", "a"], ["z"])], "inner", [],
                              [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)])  # fmt: skip
    nodes = [
        helper.make_node("Resize", ["x", "", "scales"], ["a"], mode="linear", name="resize"),
        helper.make_node("If", ["always"], ["b"], then_branch=inner, else_branch=inner, name="branch"),
        helper.make_node("Relu", ["b"], ["y"], name="relu"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 4, 4])
    graph = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], [scales, always]),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    assert lowerable(GraphView(graph)) == ["resize", "relu"]
    image = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    exact = run_session(open_session(graph.SerializeToString(), threads=1), (image,))
    for write in (emulate_plan, type_plan):
        lowered = run_session(open_session(write(graph, FP16).SerializeToString(), threads=1), (image,))
        assert 50 < agreement_db(exact, lowered) < 100


class _Overflowing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x * 300).square().mean(dim=(1, 2, 3))


def test_overflow_is_seen(images, tmp_path) -> None:
    graph = onnx.load(export_onnx(_Overflowing(), (images[:2],), tmp_path).path)
    assert torch.isinf(_run(emulate_plan(graph, FP16), images)[0]).all()
    wide = {name: "fp32" for name in lowerable(GraphView(graph))[1:]}
    repaired = _run(emulate_plan(graph, PrecisionPlan(default="fp16", nodes=wide)), images)
    assert agreement_db(_run(graph, images), repaired) > 40
