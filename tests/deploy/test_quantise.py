from __future__ import annotations

import logging
from functools import partial

import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor

from holdfast.core.contracts import PrecisionPlan
from holdfast.core.errors import BackendError, InputError
from holdfast.deploy.export import LAYOUT, export_onnx
from holdfast.deploy.fold import agreement_db
from holdfast.deploy.ort import open_session, run_session
from holdfast.deploy.quantise import Quantisation, Quantiser, quantise
from holdfast.deploy.search import find_repair


@pytest.fixture
def fp32(conv_net, images, graphs):
    return export_onnx(conv_net(0), (images[:2],), graphs).path


def test_quantised_graph_is_near_and_named_by_content(fp32, images, graphs) -> None:
    calibration = [(part,) for part in images.split(4)]
    path = quantise(fp32, calibration, Quantiser(), (), graphs)
    exact, int8 = (run_session(open_session(p, threads=1), (images,))[0] for p in (fp32, path))
    assert 25 < agreement_db([exact], [int8]) < 60
    assert any(entry.key == LAYOUT for entry in onnx.load(path).metadata_props)
    stamp = path.stat().st_mtime_ns
    assert quantise(fp32, calibration, Quantiser(), (), graphs) == path
    assert path.stat().st_mtime_ns == stamp
    others = {
        quantise(fp32, calibration[:1], Quantiser(), (), graphs),
        quantise(fp32, calibration, Quantiser(per_channel=False), (), graphs),
        quantise(fp32, calibration, Quantiser(reduce_range=False), (), graphs),
        quantise(fp32, calibration, Quantiser(), ("node_conv2d",), graphs),
    }
    assert len(others | {path}) == 5


def test_reduced_range_uses_seven_bits(fp32, images, graphs) -> None:
    def largest(reduce_range: bool) -> int:
        graph = onnx.load(quantise(fp32, [(images,)], Quantiser(reduce_range=reduce_range), (), graphs)).graph
        weights = [onnx.numpy_helper.to_array(entry) for entry in graph.initializer if "quantized" in entry.name]
        return max(int(abs(weight).max()) for weight in weights if weight.dtype == "int8")

    assert largest(True) <= 64 < largest(False) <= 127


def test_scope_and_exceptions_decide_which_nodes_are_quantised(conv_net, images, graphs) -> None:
    fp32 = export_onnx(conv_net(0, gain=1.7), (images[:2],), graphs).path

    def rounded(quantiser: Quantiser, nodes: tuple[str, ...] = ()) -> set[str]:
        graph = onnx.load(quantise(fp32, [(images,)], quantiser, nodes, graphs)).graph
        stored = {node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
        return {node.name for node in graph.node if stored & set(node.output)}

    default = rounded(Quantiser())
    assert {"node_conv2d", "node_conv2d_1", "node_linear", "node_linear_1"} <= default
    assert rounded(Quantiser(scope="all")) - default == {"node_mul_20"}
    assert default - rounded(Quantiser(), ("node_conv2d",)) == {"node_conv2d"}
    with pytest.raises(BackendError, match=r"no nodes \['nowhere'\]"):
        quantise(fp32, [(images,)], Quantiser(), ("nowhere",), graphs)


def test_percentiles_make_ranges_narrower(fp32, images, graphs) -> None:
    def largest_step(quantiser: Quantiser) -> float:
        graph = onnx.load(quantise(fp32, [(outlier,)], quantiser, (), graphs)).graph
        steps = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        asked = [node.input[1] for node in graph.node if node.op_type == "QuantizeLinear"]
        return max(float(steps[name].max()) for name in asked if steps[name].ndim == 0)

    outlier = images.repeat(200, 1, 1, 1)  # of 200 000 values two lie outside of the percentiles
    outlier[0, 0, 0, 0] = 1000.0
    assert largest_step(Quantiser(method="percentile")) < 0.9 * largest_step(Quantiser())


def test_a_plan_says_which_nodes_are_rounded_and_the_search_finds_which_must_not_be(fp32, images, graphs) -> None:
    lowering = Quantisation(graph=fp32, calibration=[(images,)], folder=graphs)

    def rounded(plan: PrecisionPlan) -> set[str]:
        graph = lowering(plan).graph
        whole = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
        return {node.name for node in graph.node if node.name in lowering.names and whole & set(node.input)}

    assert rounded(PrecisionPlan()) == set()
    everything = rounded(PrecisionPlan(default="int8"))
    assert {"node_conv2d", "node_linear_1"} <= everything <= set(lowering.names)
    assert rounded(PrecisionPlan(default="int8", nodes={"node_conv2d": "fp32"})) == everything - {"node_conv2d"}

    def moved(exact: list[Tensor], lowered: list[Tensor]) -> float:
        return float((exact[0] - lowered[0]).abs().mean())

    search = partial(find_repair, onnx.load(fp32), [(images,)], moved, precision="int8", names=lowering.names,
                     lower=lowering, ranking_samples=4)  # fmt: skip
    damaged = search(limit=1.0).before
    found = search(limit=damaged / 2)
    assert 0 < len(found.nodes) < len(lowering.names)
    assert found.after <= damaged / 2
    assert found.plan == PrecisionPlan(default="int8", nodes=dict.fromkeys(sorted(found.nodes), "fp32"))


def test_without_calibration_it_says_what_is_missing(fp32, graphs) -> None:
    with pytest.raises(BackendError, match="needs calibration inputs"):
        quantise(fp32, [], Quantiser(), (), graphs)


def test_settings_of_a_plan_are_checked() -> None:
    assert Quantiser.of(PrecisionPlan(quantiser={"per_channel": False})) == Quantiser(per_channel=False)
    with pytest.raises(InputError, match="per_channel"):
        Quantiser.of(PrecisionPlan(quantiser={"per_chanel": False}))


@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_nothing_reaches_the_log_or_the_screen(fp32, images, graphs, caplog, capsys, method) -> None:
    with caplog.at_level(logging.INFO):
        quantise(fp32, [(images + 0.5,)], Quantiser(method=method), (), graphs)
    assert caplog.records == []
    assert capsys.readouterr() == ("", "")


def test_calibration_on_larger_inputs_widens_the_ranges(fp32, images, graphs) -> None:
    narrow = quantise(fp32, [(images,)], Quantiser(), (), graphs)
    wide = quantise(fp32, [(images * 8,)], Quantiser(), (), graphs)
    large = torch.cat([images * 8])
    exact, small_range, large_range = (
        run_session(open_session(p, threads=1), (large,))[0] for p in (fp32, narrow, wide)
    )
    assert agreement_db([exact], [small_range]) < agreement_db([exact], [large_range])
