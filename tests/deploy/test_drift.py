from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from holdfast.core.contracts import PrecisionPlan
from holdfast.core.errors import BackendError
from holdfast.deploy import drift
from holdfast.deploy.casts import emulate_plan
from holdfast.deploy.drift import node_drift
from holdfast.deploy.export import export_onnx
from holdfast.deploy.quantise import Quantiser, quantise


@pytest.fixture
def path(conv_net, images, graphs):
    return export_onnx(conv_net(0), (images[:2],), graphs).path


def _changed(graph: onnx.ModelProto, name: str, change) -> onnx.ModelProto:
    other = onnx.ModelProto()
    other.CopyFrom(graph)
    constant = next(entry for entry in other.graph.initializer if entry.name == name)
    constant.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(constant)).astype(np.float32), name))
    return other


def test_a_graph_does_not_drift_from_itself(path, images) -> None:
    graph = onnx.load(path)
    found = node_drift(graph, graph, [(images,)])
    assert found.outputs_db == math.inf
    assert found.first(120) is None
    assert {node.snr_db for node in found.nodes} == {math.inf}
    assert found.nodes[0].node == "node_conv2d"


def test_the_changed_layer_is_where_it_starts(path, images) -> None:
    graph = onnx.load(path)
    other = _changed(graph, "trunk.3.weight", lambda w: w * (1 + 0.01 * np.sign(w)))
    found = node_drift(graph, other, [(images[:3],), (images[3:],)])
    assert found.first(100).node == "node_conv2d_1"
    assert found.worst_drops()[0].node == "node_conv2d_1"
    assert found.worst_drops()[0].drop_db > 90
    assert found.trustworthy
    assert 30 < found.outputs_db < 60


def test_rounding_shows_at_every_node_and_overflow_as_broken(path, images) -> None:
    graph = onnx.load(path)
    fp16 = node_drift(graph, emulate_plan(graph, PrecisionPlan(default="fp16")), [(images,)])
    assert all(50 < node.snr_db < 90 for node in fp16.nodes)
    huge = _changed(graph, "trunk.0.weight", lambda w: w * 1e6)
    broken = node_drift(huge, emulate_plan(huge, PrecisionPlan(default="fp16")), [(images,)])
    first = broken.first(0)
    assert (first.node, first.snr_db) == ("node_conv2d", -math.inf)
    assert first.broken > 0
    assert first.peak > 65504


def test_portions_give_the_same_profile(path, images, monkeypatch) -> None:
    graph = onnx.load(path)
    other = emulate_plan(graph, PrecisionPlan(default="bf16"))
    whole = node_drift(graph, other, [(images,)])
    opened = []
    monkeypatch.setattr(drift, "open_session", lambda *a, **k: opened.append(1) or _open(*a, **k))
    split = node_drift(graph, other, [(images,)], memory_bytes=1)
    assert len(opened) == 2 + 2 * len(whole.nodes)
    assert [node.tensor for node in split.nodes] == [node.tensor for node in whole.nodes]
    for a, b in zip(whole.nodes, split.nodes, strict=True):
        assert a.snr_db == pytest.approx(b.snr_db, abs=3)


_open = drift.open_session


def test_a_quantised_graph_is_compared_on_the_names_it_kept(path, images, graphs) -> None:
    int8 = onnx.load(quantise(path, [(images,)], Quantiser(), (), graphs))
    found = node_drift(onnx.load(path), int8, [(images,)], optimise=False)
    assert len(found.nodes) >= 4
    assert all(25 < node.snr_db < 60 for node in found.nodes)
    assert "node_relu" not in {node.node for node in found.nodes}  # its name now stands for a convolution's output
    assert found.looking_db == math.inf


def test_graphs_without_common_names_are_refused(path, images) -> None:
    graph = onnx.load(path)
    renamed = onnx.compose.add_prefix(graph, "other_", rename_inputs=False, rename_outputs=True)
    with pytest.raises(BackendError, match="share no tensor"):
        node_drift(graph, renamed, [(images,)])


def test_sums_over_batches_are_those_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    r, o = rng.normal(size=(2, 50)), rng.normal(size=(2, 50))
    whole, parts = drift._Sums(), drift._Sums()
    whole.add(r, o)
    parts.add(r[:1], o[:1])
    parts.add(r[1:], o[1:])
    assert parts.snr_db() == pytest.approx(whole.snr_db())
    assert (parts.largest, parts.peak) == (whole.largest, whole.peak)
    assert torch.tensor(r).abs().max() == whole.peak
