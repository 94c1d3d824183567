from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from holdfast.deploy.export import export_onnx
from holdfast.deploy.lint import RULES, lint

_X = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])
_Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", None])


class _Several(nn.Module):
    """One export, which takes a second, for many small graphs."""

    def __init__(self, functions: list[Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        self.functions = functions

    def forward(self, x: Tensor) -> list[Tensor]:
        return [function(x) for function in self.functions]


def _exported(functions: list[Callable[[Tensor], Tensor]], tmp_path) -> onnx.ModelProto:
    return onnx.load(export_onnx(_Several(functions).eval(), (torch.rand(2, 3, 16, 16),), tmp_path).path)


def _handmade(*nodes: onnx.NodeProto, opset: int = 18, constants: tuple[onnx.TensorProto, ...] = ()) -> onnx.ModelProto:
    graph = helper.make_graph(list(nodes), "g", [_X], [_Y], list(constants))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def _layer_norm(x: Tensor) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred / (centred.pow(2).mean(dim=-1, keepdim=True) + 1e-5).sqrt()


def _rms_norm(x: Tensor) -> Tensor:
    return x * torch.rsqrt((x * x).mean(dim=-1, keepdim=True) + 1e-5)


_HAZARDS: list[tuple[str, Callable[[Tensor], Tensor]]] = [
    ("decomposed_norm", _layer_norm),
    ("decomposed_norm", _rms_norm),
    ("decomposed_softmax", lambda x: x.exp() / x.exp().sum(dim=-1, keepdim=True)),
    ("large_coordinates", lambda x: x + torch.linspace(0, 1919, 16)),
    ("large_coordinates", lambda x: (x.softmax(-1) * (torch.arange(16) * 40.0)).sum(-1)),
    ("constants_out_of_range", lambda x: x - 1e9),
    # The exporter removes what it takes for a zero, 1e-8 among it.
    ("constants_out_of_range", lambda x: x / (x.abs().sum(dim=-1, keepdim=True) + 3e-8)),
    ("resize_modes", lambda x: nn.functional.interpolate(x, scale_factor=0.5, mode="bilinear")),
    ("resize_modes", lambda x: nn.functional.interpolate(x, size=(32, 32), mode="nearest")),
    ("exporter_fallbacks", lambda x: nn.functional.interpolate(x, size=(11, 7), mode="nearest-exact")),
]

_HARMLESS: list[Callable[[Tensor], Tensor]] = [
    lambda x: nn.functional.layer_norm(x, (16,)),
    lambda x: x.softmax(-1),
    lambda x: torch.logsumexp(x, -1),
    lambda x: (x - x.amax(-1, keepdim=True)).exp() / (x - x.amax(-1, keepdim=True)).exp().sum(-1, keepdim=True),
    lambda x: (x.softmax(-1) * torch.linspace(-1, 1, 16)).sum(-1),
    lambda x: x + 1e-5,
    lambda x: x * x + x.mean(),
    lambda x: x.masked_fill(x > 0.5, -1e4),
    lambda x: nn.functional.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True),
    lambda x: nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear"),
    lambda x: nn.functional.conv2d(x, torch.arange(81.0).view(3, 3, 3, 3) / 81),
]


def test_hazards_are_found_in_what_the_exporter_writes(tmp_path) -> None:
    found = lint(_exported([function for _, function in _HAZARDS], tmp_path))
    assert Counter(hazard.rule for hazard in found) == Counter(rule for rule, _ in _HAZARDS)
    assert all(hazard.node and hazard.reason and hazard.fix for hazard in found)
    severities = [hazard.severity for hazard in found]
    assert severities == sorted(severities)


def test_harmless_graphs_are_left_alone(tmp_path) -> None:
    assert lint(_exported(_HARMLESS, tmp_path)) == []


def test_the_models_of_the_project_are_clean(conv_net, images, graphs) -> None:
    assert lint(onnx.load(export_onnx(conv_net(0), (images[:2],), graphs).path)) == []


def test_rules_of_fp16_are_asked_for_fp16_alone(tmp_path) -> None:
    graph = _exported([lambda x: x - 1e9], tmp_path)
    assert len(lint(graph)) == 1
    assert lint(graph, precision="bf16") == []


def test_unfolded_normalisation_and_its_training_mode() -> None:
    ones = [numpy_helper.from_array(np.ones(3, np.float32), name) for name in "sbmv"]
    kernel = numpy_helper.from_array(np.ones((3, 3, 1, 1), np.float32), "w")
    conv = helper.make_node("Conv", ["x", "w"], ["a"], name="conv")
    norm = helper.make_node("BatchNormalization", ["a", *"sbmv"], ["y"], name="norm")
    (hazard,) = lint(_handmade(conv, norm, constants=(kernel, *ones)))
    assert (hazard.rule, hazard.severity, hazard.node) == ("unfolded_batchnorm", "warning", "norm")
    assert "conv" in hazard.reason
    norm.attribute.append(helper.make_attribute("training_mode", 1))
    (hazard,) = lint(_handmade(conv, norm, constants=(kernel, *ones)))
    assert hazard.severity == "error"


def test_64_bits_old_opsets_fixed_batches_and_foreign_operators() -> None:
    big = numpy_helper.from_array(np.array([2**40]), "big")
    graph = _handmade(
        helper.make_node("Add", ["n", "big"], ["m"], name="add"),
        helper.make_node("Mystery", ["x"], ["y"], name="odd", domain="org.example"),
        opset=13, constants=(big,),
    )  # fmt: skip
    graph.graph.input.append(helper.make_tensor_value_info("n", TensorProto.INT64, [1, 2]))
    rules = [(hazard.severity, hazard.rule, hazard.node) for hazard in lint(graph)]
    assert rules == [
        ("error", "integers_of_64_bits", "add"), ("error", "exporter_fallbacks", "odd"),
        ("warning", "integers_of_64_bits", "n"), ("warning", "fixed_batch", "n"), ("warning", "old_opset", ""),
    ]  # fmt: skip


def test_resize_grids_that_runtimes_differ_in() -> None:
    sizes = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")
    for grid, hazards in (("half_pixel", 0), ("asymmetric", 1), ("tf_crop_and_resize", 1)):
        node = helper.make_node(
            "Resize", ["x", "", "scales"], ["y"], mode="linear", coordinate_transformation_mode=grid
        )
        assert len(lint(_handmade(node, constants=(sizes,)))) == hazards


def test_control_flow_is_named() -> None:
    inner = helper.make_graph([helper.make_node("Relu", ["x"], ["z"])], "inner", [], [_Y])
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner, name="branch")
    graph = _handmade(node, constants=(numpy_helper.from_array(np.array(True), "c"),))
    assert [hazard.rule for hazard in lint(graph)] == ["exporter_fallbacks"]


def test_every_rule_says_what_it_looks_for() -> None:
    assert len(RULES) == 10
    assert all(rule.__doc__ for rule in RULES.values())
