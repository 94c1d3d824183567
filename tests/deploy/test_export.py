from __future__ import annotations

import json

import onnx
import pytest
import torch
from torch import Tensor, nn

from holdfast.core.errors import BackendError
from holdfast.deploy import export
from holdfast.deploy.export import LAYOUT, OPSET, export_onnx
from holdfast.deploy.fold import agreement_db
from holdfast.deploy.nest import flatten, unflatten
from holdfast.deploy.ort import open_session, run_session


def _run(path, *inputs: Tensor) -> object:
    session = open_session(path, threads=1)
    layout = json.loads(session.get_modelmeta().custom_metadata_map[LAYOUT])
    return unflatten(run_session(session, inputs), layout)


def test_graph_computes_the_same_for_any_batch_size(conv_net, images, graphs) -> None:
    model = conv_net(0)
    graph = export_onnx(model, (images[:2],), graphs)
    assert graph.folded == ("trunk.1", "trunk.4")
    for batch in (images[:1], images[:2], images):
        expected, got = model(batch), _run(graph.path, batch)
        assert list(got) == ["scores", "features"]
        assert agreement_db(flatten(expected)[0], flatten(got)[0]) > 100


def test_graph_is_dynamic_named_and_holds_nothing_private(conv_net, images, graphs) -> None:
    loaded = onnx.load(export_onnx(conv_net(0), (images[:2],), graphs).path)
    onnx.checker.check_model(loaded, full_check=True)
    assert loaded.opset_import[0].version == OPSET
    assert [entry.name for entry in loaded.graph.input] == ["image"]
    assert loaded.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert {node.op_type for node in loaded.graph.node}.isdisjoint({"BatchNormalization"})
    assert b".py" not in loaded.SerializeToString()


def test_other_weights_reuse_the_translation(conv_net, images, graphs, monkeypatch) -> None:
    export_onnx(conv_net(0), (images[:2],), graphs)
    monkeypatch.setattr(export, "_translate", lambda *_: pytest.fail("translated again"))
    other = conv_net(1)
    graph = export_onnx(other, (images[:2],), graphs)
    assert agreement_db([other(images)["scores"]], [_run(graph.path, images)["scores"]]) > 100


def test_the_same_model_is_written_once(conv_net, images, graphs) -> None:
    first = export_onnx(conv_net(2), (images[:2],), graphs)
    stamp = first.path.stat().st_mtime_ns
    again = export_onnx(conv_net(2), (images[:4],), graphs)
    assert again == first
    assert again.path.stat().st_mtime_ns == stamp


def test_a_cached_graph_that_is_wrong_is_replaced(conv_net, images, graphs) -> None:
    model = conv_net(3)
    graph = export_onnx(model, (images[:2],), graphs)
    graph.path.write_bytes(export_onnx(conv_net(4), (images[:2],), graphs).path.read_bytes())
    assert export_onnx(model, (images[:2],), graphs) == graph
    assert agreement_db([model(images)["scores"]], [_run(graph.path, images)["scores"]]) > 100
    graph.path.write_bytes(b"torn")
    export_onnx(model, (images[:2],), graphs)
    assert agreement_db([model(images)["scores"]], [_run(graph.path, images)["scores"]]) > 100


def test_the_model_keeps_its_mode_and_weights(conv_net, images, graphs) -> None:
    model = conv_net(0).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    export_onnx(model, (images[:2],), graphs)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    "example", [(), (torch.rand(1, 3),), (torch.rand(2, 3), torch.rand(4, 3)), (torch.tensor(1.0),)]
)
def test_an_example_without_a_batch_is_refused(example: tuple[Tensor, ...], tmp_path) -> None:
    with pytest.raises(BackendError, match="batch"):
        export_onnx(nn.Linear(3, 3), example, tmp_path)
    assert list(tmp_path.iterdir()) == []


class _FixedBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(2, 3) * 2


class _ValueDependent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if float(x.sum()) > 0 else x


class _Frozen(nn.Module):
    """Looks at values in a way that the exporter can only freeze: the graph is right on the example alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.tensor(x.detach().tolist() if not torch.compiler.is_exporting() else [[1.0, 2.0, 3.0]])


@pytest.mark.parametrize("model", [_FixedBatch(), _ValueDependent(), _Frozen()])
def test_a_model_that_cannot_be_exported_is_refused_in_one_line(model: nn.Module, tmp_path) -> None:
    with pytest.raises(BackendError) as caught:
        export_onnx(model, (torch.rand(2, 3),), tmp_path)
    assert "\n" not in str(caught.value)
    assert caught.value.fix
    assert list(tmp_path.iterdir()) == []


class _TwoInputs(nn.Module):
    def forward(self, image: Tensor, speed: Tensor) -> tuple[Tensor, None]:
        return image.mean(dim=(1, 2, 3)) * speed, None


def test_several_inputs_and_empty_outputs(images, tmp_path) -> None:
    speed = torch.arange(6.0)
    graph = export_onnx(_TwoInputs(), (images[:2], speed[:2]), tmp_path)
    got = _run(graph.path, images, speed)
    assert isinstance(got, tuple)
    assert got[1] is None
    torch.testing.assert_close(got[0], images.mean(dim=(1, 2, 3)) * speed)
