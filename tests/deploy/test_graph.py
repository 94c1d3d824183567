from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from holdfast.core.errors import InputError
from holdfast.deploy.export import export_onnx
from holdfast.deploy.graph import GraphView, attributes, load_graph

_X = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])
_Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", None])


def _model(nodes, constants=(), outputs=(_Y,)) -> onnx.ModelProto:
    graph = helper.make_graph(list(nodes), "g", [_X], list(outputs), list(constants))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _saved(tmp_path, model: onnx.ModelProto):
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_a_good_graph_is_read(conv_net, images, graphs) -> None:
    path = export_onnx(conv_net(0), (images[:2],), graphs).path
    assert load_graph(path) == onnx.load(path)


def test_external_data_beside_the_file_is_read_and_elsewhere_refused(tmp_path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    weight = numpy_helper.from_array(np.ones((3, 3), np.float32), "w")
    model = _model([helper.make_node("MatMul", ["x", "w"], ["y"])], [weight])
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    assert load_graph(folder / "model.onnx").graph.initializer[0].raw_data == weight.raw_data
    (tmp_path / "secret").write_bytes(bytes(36))
    for location in ("../secret", str(tmp_path / "secret")):
        model = onnx.load(folder / "model.onnx", load_external_data=False)
        next(entry for entry in model.graph.initializer[0].external_data if entry.key == "location").value = location
        with pytest.raises(InputError, match="lies outside of its folder"):
            load_graph(_saved(folder, model))
    (folder / "link").symlink_to(tmp_path / "secret")
    next(entry for entry in model.graph.initializer[0].external_data if entry.key == "location").value = "link"
    with pytest.raises(InputError, match="lies outside of its folder"):
        load_graph(_saved(folder, model))


def _cycle() -> onnx.ModelProto:
    return _model([helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"]),
                   helper.make_node("Relu", ["b"], ["y"])])  # fmt: skip


def _huge_constant() -> onnx.ModelProto:
    return _model([helper.make_node("Relu", ["x"], ["y"])], [TensorProto(name="w", data_type=1, dims=[2**20, 2**20])])


def _huge_inside_a_branch() -> onnx.ModelProto:
    inner = helper.make_graph([helper.make_node("Identity", ["w"], ["z"])], "inner", [], [_Y])
    inner.initializer.append(TensorProto(name="w", data_type=1, dims=[2**20, 2**20]))
    return _model([helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)])


def _huge_result() -> onnx.ModelProto:
    shape = numpy_helper.from_array(np.array([2**20, 2**20]), "shape")
    return _model(
        [helper.make_node("ConstantOfShape", ["shape"], ["big"]), helper.make_node("Add", ["x", "big"], ["y"])], [shape]
    )


def _contradiction() -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.ones((4, 3), np.float32), "w")
    return _model([helper.make_node("MatMul", ["x", "w"], ["y"])], [weight])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (_cycle(), "is not valid"), (_huge_constant(), r"constant 'w' of shape \[1048576, 1048576\]"),
        (_huge_inside_a_branch(), "constant 'w'"), (_huge_result(), "tensor 'big' would have shape"),
        (_model([]), "holds no graph"), (_model([helper.make_node("NoSuchThing", ["x"], ["y"])]), "is not valid"),
    ],
)  # fmt: skip
def test_a_hostile_graph_is_refused(tmp_path, model: onnx.ModelProto, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_graph(_saved(tmp_path, model))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x08\x0a" + bytes(range(256)), b"not an onnx file at all"])
def test_other_files_are_refused_in_one_line(tmp_path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_graph(tmp_path / "model.onnx")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no such file"):
        load_graph(tmp_path / "other.onnx")


def test_the_view_knows_edges_constants_and_types(conv_net, images, graphs) -> None:
    view = GraphView(onnx.load(export_onnx(conv_net(0), (images[:2],), graphs).path))
    conv = view.nodes["node_conv2d"]
    relu = view.readers(conv)[0]
    assert relu.op_type == "Relu"
    assert view.source(relu) is conv
    assert view.source(conv) is None
    assert view.constants["trunk.0.weight"].shape == (8, 3, 3, 3)
    assert view.shape("image") == (None, 3, 16, 16)
    assert view.shape(conv.output[0])[1:] == (8, 16, 16)
    assert view.element_type(conv.output[0]) == TensorProto.FLOAT
    assert view.opset == 18
    assert attributes(conv)["pads"] == [1, 1, 1, 1]
    assert (view.shape("nothing"), view.element_type("nothing")) == (None, 0)


def test_nodes_without_names_are_named_and_the_model_is_not_changed() -> None:
    model = _model([helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Mul", ["a", "two"], ["y"])],
                   [numpy_helper.from_array(np.array([2.0], np.float32), "two")])  # fmt: skip
    view = GraphView(model)
    assert list(view.nodes) == ["Relu_0", "Mul_1"]
    assert view.scalar(view.nodes["Mul_1"]) == 2.0
    assert view.scalar(view.nodes["Relu_0"]) is None
    assert [node.name for node in model.graph.node] == ["", ""]
    with pytest.raises(InputError, match="same name"):
        GraphView(
            _model([helper.make_node("Relu", ["x"], ["a"], name="n"), helper.make_node("Relu", ["a"], ["y"], name="n")])
        )
