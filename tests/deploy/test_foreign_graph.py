from __future__ import annotations

import onnx
import pytest
import torch
from torch import nn

from holdfast.core.contracts import PrecisionPlan
from holdfast.core.errors import BackendError, InputError
from holdfast.deploy.backends.graph import Graph, stored_precision
from holdfast.deploy.casts import type_plan
from holdfast.deploy.export import LAYOUT, export_onnx
from holdfast.deploy.quantise import Quantiser, quantise
from holdfast.deploy.subjects import subject_of


@pytest.fixture
def foreign(conv_net, images, graphs, tmp_path):
    """A file that says nothing of holdfast."""
    model = onnx.load(export_onnx(conv_net(0), (images[:2],), graphs).path)
    del model.metadata_props[:]
    model.producer_name = "somebody"
    onnx.save(model, tmp_path / "theirs.onnx")
    return tmp_path / "theirs.onnx"


def test_a_file_runs_as_it_is_in_the_nest_of_the_model(foreign, conv_net, images, tmp_path) -> None:
    backend = Graph(path=str(foreign))
    assert backend.probe().precisions == {"fp32": "native"}
    artefact = backend.prepare(conv_net(0), (images[:2],), PrecisionPlan(), None, tmp_path)
    assert "somebody" in artefact.notes[0]
    subject = subject_of(backend, artefact, conv_net(0))
    assert (subject.name, subject.executed) == ("graph:fp32", "fp32")
    torch.testing.assert_close(subject.run(images)["scores"], conv_net(0)(images)["scores"])
    assert LAYOUT not in {entry.key for entry in onnx.load(foreign).metadata_props}


def test_what_is_stored_is_recognised(foreign, images, graphs, tmp_path) -> None:
    model = onnx.load(foreign)
    assert stored_precision(model) == "fp32"
    assert stored_precision(type_plan(model, PrecisionPlan(default="fp16"))) == "fp16"
    assert stored_precision(onnx.load(quantise(foreign, [(images,)], Quantiser(), (), tmp_path))) == "int8"


def test_a_graph_of_another_model_is_refused(foreign, images, tmp_path) -> None:
    other = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten()).eval()
    with pytest.raises(BackendError, match=r"gives outputs of shapes .* the model"):
        Graph(path=str(foreign)).prepare(other, (images[:2],), PrecisionPlan(), None, tmp_path)
    with pytest.raises(BackendError, match="no precision 'int8'"):
        Graph(path=str(foreign)).prepare(other, (images[:2],), PrecisionPlan(default="int8"), None, tmp_path)


def test_missing_and_damaged_files_are_not_usable(tmp_path, conv_net, images) -> None:
    (tmp_path / "torn.onnx").write_bytes(b"\x08\x07torn")
    for path, reason in [("", "set its option"), ("none.onnx", "no such file"), (str(tmp_path / "torn.onnx"), "")]:
        available = Graph(path=path).probe()
        assert not available.ok
        assert reason in available.reason
    with pytest.raises(InputError):
        Graph(path=str(tmp_path / "torn.onnx")).prepare(conv_net(0), (images,), PrecisionPlan(), None, tmp_path)
