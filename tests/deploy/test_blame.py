"""Every fault that is injected here is named by class and node, and nothing is named where nothing is wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from holdfast.deploy.blame import FIXES, Blame, blame
from holdfast.deploy.differences import Kind
from holdfast.deploy.export import export_onnx, quiet

Edit = Callable[[nn.Module], None]


class Net(nn.Module):
    """A resize, convolutions with batch normalisation, tokens with layer normalisation, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        )  # fmt: skip
        self.norm, self.mix = nn.LayerNorm(8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, image: Tensor) -> Tensor:
        small = nn.functional.interpolate(image, scale_factor=0.5, mode="bilinear", antialias=True)
        tokens = self.trunk(small).flatten(2).transpose(1, 2)
        return self.head((tokens + self.mix(self.norm(tokens)).relu()).mean(dim=1))


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    net = Net()
    with torch.no_grad():
        for _ in range(3):
            net.train()(torch.rand(8, 3, 16, 16))
        for norm in (net.trunk[1], net.trunk[4], net.norm):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(-0.3, 0.3)
    return net.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    return tmp_path_factory.mktemp("blame")


def _graph(model: nn.Module, image: Tensor, folder, edit: Edit | None = None) -> onnx.ModelProto:
    changed = copy.deepcopy(model)
    if edit is not None:
        with torch.no_grad():
            edit(changed)
    return onnx.load(export_onnx(changed, (image,), folder).path)


def _only(found: Blame) -> tuple[Kind, tuple[str, ...]]:
    assert not found.below_floor
    assert found.explained
    (cause,) = found.causes
    assert cause.fix == FIXES[cause.kind]
    return cause.kind, cause.nodes


def _round_weight(layer: str, change: Callable[[Tensor], Tensor]) -> Edit:
    def edit(net: nn.Module) -> None:
        weight = net.get_submodule(layer).weight
        weight.copy_(change(weight))

    return edit


def _int8(weight: Tensor) -> Tensor:
    step = weight.abs().max() / 127
    return (weight / step).round() * step


def _other_weights(net: nn.Module) -> None:
    draw = torch.Generator().manual_seed(1)
    for weight in net.parameters():
        weight.add_(0.02 * torch.randn(weight.shape, generator=draw))


def _set(module: str, **values: float) -> Edit:
    def edit(net: nn.Module) -> None:
        for name, value in values.items():
            setattr(net.get_submodule(module), name, value)

    return edit


def _stale(net: nn.Module) -> None:
    net.trunk[4].running_mean.mul_(0.7)
    net.trunk[4].running_var.mul_(torch.linspace(0.5, 2.0, 8))


FAULTS: dict[str, tuple[Edit, Kind, str]] = {
    "fp16 weights": (_round_weight("trunk.3", lambda w: w.half().float()), "rounded_weights", "node_conv2d_1"),
    "int8 weights": (_round_weight("trunk.0", _int8), "rounded_weights", "node_conv2d"),
    "bf16 weights of a linear layer": (
        _round_weight("mix", lambda w: w.bfloat16().float()), "rounded_weights", "node_MatMul",
    ),
    "BGR": (_round_weight("trunk.0", lambda w: w[:, [2, 1, 0]].clone()), "channels", "node_conv2d"),
    "epsilon of a folded norm": (_set("trunk.1", eps=1e-3), "epsilon", "node_conv2d"),
    "epsilon of a layer norm": (_set("norm", eps=1e-2), "epsilon", "node_layer_norm"),
    "stale statistics": (_stale, "batchnorm", "node_conv2d_1"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_the_model_is_named_with_its_node(name: str, model, image, folder) -> None:
    edit, kind, node = FAULTS[name]
    found = blame(model, _graph(model, image, folder, edit), (image,), folder)
    named, (place,) = _only(found)
    assert named == kind
    assert place.startswith(node)


@pytest.mark.parametrize(("attribute", "value"), [("mode", "nearest"), ("antialias", 0),
                                                 ("coordinate_transformation_mode", "asymmetric")])  # fmt: skip
def test_a_resize_that_is_set_otherwise_is_named(attribute: str, value, model, image, folder) -> None:
    graph = _graph(model, image, folder)
    node = next(node for node in graph.graph.node if node.op_type == "Resize")
    dropped = {attribute, *(("antialias", "exclude_outside") if value in ("nearest", 0) else ())}
    kept = [entry for entry in node.attribute if entry.name not in dropped]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(attribute, value)])
    found = blame(model, graph, (image,), folder)
    assert _only(found) == ("resize", (node.name,))
    assert f"{attribute} {value} instead of" in found.causes[0].detail


def test_channels_that_are_gathered_in_another_order_are_named(model, image, folder) -> None:
    graph = _graph(model, image, folder)
    graph.graph.initializer.append(numpy_helper.from_array(np.array([2, 1, 0]), "order"))
    for node in graph.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = "swapped" if name == "image" else name
    graph.graph.node.insert(0, helper.make_node("Gather", ["image", "order"], ["swapped"], name="swap", axis=1))
    assert _only(blame(model, graph, (image,), folder)) == ("channels", ("swap",))


def test_other_weights_are_named_and_recognised_where_they_lie_beside(model, image, folder) -> None:
    graph = _graph(model, image, folder, _other_weights)
    found = blame(model, graph, (image,), folder)
    kind, nodes = _only(found)
    assert kind == "other_weights"
    assert {"node_conv2d", "node_conv2d_1"} <= set(nodes)
    assert "another checkpoint" in found.causes[0].detail
    raw = copy.deepcopy(model)
    with torch.no_grad():
        _other_weights(raw)
    before = copy.deepcopy(model.state_dict())
    found = blame(model, graph, (image,), folder, candidates={"mine": before, "last.safetensors": raw.state_dict()})
    assert _only(found)[0] == "other_weights"
    assert found.causes[0].detail == "these are the weights of last.safetensors"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_two_faults_are_both_named(model, image, folder) -> None:
    def edit(net: nn.Module) -> None:
        _set("norm", eps=1e-2)(net)
        _round_weight("trunk.3", _int8)(net)

    found = blame(model, _graph(model, image, folder, edit), (image,), folder)
    assert {cause.kind for cause in found.causes} == {"epsilon", "rounded_weights"}
    assert found.explained


def test_what_lies_below_the_floor_is_blamed_on_nothing(model, image, folder) -> None:
    for edit in (None, _set("trunk.1", eps=1.00001e-5)):
        found = blame(model, _graph(model, image, folder, edit), (image,), folder)
        assert found.below_floor
        assert found.causes == ()
    assert found.floor_db > 100


def test_a_difference_without_effect_is_no_cause(model, image, folder) -> None:
    graph = _graph(model, image, folder, _round_weight("trunk.0", _int8))
    resize = next(node for node in graph.graph.node if node.op_type == "Resize")
    kept = [entry for entry in resize.attribute if entry.name != "nearest_mode"]
    del resize.attribute[:]
    resize.attribute.extend([*kept, helper.make_attribute("nearest_mode", "ceil")])  # means nothing to a linear resize
    assert _only(blame(model, graph, (image,), folder)) == ("rounded_weights", ("node_conv2d",))


def test_what_no_rule_knows_is_located_by_drift(model, image, folder) -> None:
    graph = _graph(model, image, folder)
    relu = [node for node in graph.graph.node if node.op_type == "Relu"][1]
    relu.op_type = "LeakyRelu"
    found = blame(model, graph, (image,), folder)
    assert found.causes == ()
    assert not found.explained
    # The tensor of the changed node is not shared, so it shows at the next that is.
    order = [node.name for node in graph.graph.node]
    assert order.index(found.starts) in (order.index(relu.name), order.index(relu.name) + 1)


def test_an_unfolded_export_of_the_same_model_is_clean(model, image, folder, tmp_path) -> None:
    path = tmp_path / "unfolded.onnx"
    with quiet():
        program = torch.onnx.export(
            model, (image,), dynamo=True, opset_version=18, verbose=False, optimize=False,
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        )  # fmt: skip
    program.save(path)
    graph = onnx.load(path)
    assert any(node.op_type == "BatchNormalization" for node in graph.graph.node)
    assert blame(model, graph, (image,), folder).below_floor
    norm = [node for node in graph.graph.node if node.op_type == "BatchNormalization"][1]
    kept = [entry for entry in norm.attribute if entry.name != "epsilon"]
    del norm.attribute[:]
    norm.attribute.extend([*kept, helper.make_attribute("epsilon", 1e-2)])
    found = blame(model, graph, (image,), folder)
    assert _only(found) == ("epsilon", (norm.name,))
    assert found.causes[0].detail == "epsilon 0.01, trained with 1e-05"
