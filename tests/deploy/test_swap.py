from __future__ import annotations

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from holdfast.deploy.export import export_onnx
from holdfast.deploy.fold import agreement_db, fold_batchnorm
from holdfast.deploy.ort import open_session, run_session
from holdfast.deploy.swap import swap_weights, take_template


def _scores(graph: onnx.ModelProto, images: Tensor) -> Tensor:
    return run_session(open_session(graph.SerializeToString(), threads=1), (images,))[0]


def test_swapped_weights_compute_what_the_other_model_does(conv_net, images, graphs) -> None:
    graph = onnx.load(export_onnx(conv_net(0), (images[:2],), graphs).path)
    before = graph.SerializeToString()
    other, _ = fold_batchnorm(conv_net(5), (images,))
    swapped = swap_weights(graph, other)
    assert agreement_db([other(images)["scores"]], [_scores(swapped, images)]) > 100
    assert graph.SerializeToString() == before
    assert "columns.weight.transposed" in {constant.name for constant in swapped.graph.initializer}


def test_a_graph_with_a_constant_made_of_weights_is_no_template(conv_net, images, graphs, tmp_path) -> None:
    model, _ = fold_batchnorm(conv_net(0), (images,))
    graph = onnx.load(export_onnx(model, (images[:2],), graphs).path)
    assert take_template(graph, model, (images,), tmp_path / "good.onnx")
    constant = next(entry for entry in graph.graph.initializer if entry.name == "head.bias")
    derived = numpy_helper.from_array(numpy_helper.to_array(constant), "derived")
    constant.CopyFrom(derived)
    for node in graph.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = "derived" if name == "head.bias" else name
    assert agreement_db([model(images)["scores"]], [_scores(graph, images)]) > 100
    assert not take_template(graph, model, (images,), tmp_path / "bad.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["good.onnx"]


def test_a_bias_that_the_exporter_dropped_as_zero_makes_no_template(tmp_path) -> None:
    model = nn.Linear(3, 3).eval()
    nn.init.zeros_(model.bias)
    graph = onnx.load(export_onnx(model, (torch.rand(2, 3),), tmp_path).path)
    assert [constant.name for constant in graph.graph.initializer] == ["weight"]
    assert list(tmp_path.glob("template-*")) == []
