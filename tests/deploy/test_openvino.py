from __future__ import annotations

import builtins

import pytest
import torch
from torch import Tensor, nn

from holdfast.core.contracts import PrecisionPlan
from holdfast.core.errors import BackendError
from holdfast.deploy.backends.openvino import OpenVINO
from holdfast.deploy.fold import agreement_db
from holdfast.deploy.subjects import open_subject

pytest.importorskip("openvino")


@pytest.mark.parametrize(("precision", "least_db"), [("fp32", 110), ("int8", 25), ("bf16", 30), ("fp16", 30)])
def test_precisions_are_hints_and_what_executes_is_said(conv_net, images, graphs, precision, least_db) -> None:
    model = conv_net(0)
    subject = open_subject(f"openvino:{precision}", model, (images[:2],), [(images,)], graphs)
    assert agreement_db([model(images)["scores"]], [subject.run(images)["scores"]]) > least_db
    if (worth := OpenVINO().probe().precisions[precision]) == "native":
        assert subject.executed == precision
    elif worth == "emulated":
        assert subject.executed == f"{precision} (emulated)"
    else:
        assert subject.executed == "fp32"
        assert subject.notes[-1] == f"{precision} was requested, {subject.executed} executed"
    subject.close()


class _Attention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2)
        return tokens @ tokens.transpose(1, 2)


def test_products_of_activations_count_as_matrix_nodes(images, tmp_path) -> None:
    subject = open_subject("openvino:bf16", _Attention(), (images[:2],), None, tmp_path)
    assert subject.executed in ("bf16", "bf16 (emulated)", "fp32")
    assert subject.run(images).shape == (6, 3, 3)


def test_outputs_survive_the_next_call(conv_net, images, graphs) -> None:
    backend = OpenVINO()
    session = backend.load(backend.prepare(conv_net(0), (images[:2],), PrecisionPlan(), None, graphs))
    first = session(images)["scores"]
    kept = first.clone()
    session(images * 0)
    assert torch.equal(first, kept)


def test_wrong_inputs_are_one_line(conv_net, images, graphs) -> None:
    backend = OpenVINO()
    session = backend.load(backend.prepare(conv_net(0), (images[:2],), PrecisionPlan(), None, graphs))
    with pytest.raises(BackendError, match="openvino") as caught:
        session(images[:, :2])
    assert "\n" not in str(caught.value)


def test_without_the_package_it_says_how_to_get_it(monkeypatch) -> None:
    original = builtins.__import__

    def missing(name: str, *args: object, **options: object) -> object:
        if name == "openvino":
            raise ImportError("No module named 'openvino'")
        return original(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    available = OpenVINO().probe()
    assert not available.ok
    assert "pip install holdfast[openvino]" in available.reason
