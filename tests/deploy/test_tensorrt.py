from __future__ import annotations

import json
import sys

import pytest
import torch
from fake_tensorrt import Memory, package

from holdfast.core.contracts import PrecisionPlan
from holdfast.core.errors import BackendError
from holdfast.deploy import engine
from holdfast.deploy.backends.tensorrt import TensorRT
from holdfast.deploy.fold import agreement_db
from holdfast.deploy.subjects import subject_of
from holdfast.deploy.target import record


@pytest.fixture(params=["10.3.0", "11.4.0"])
def version(request, monkeypatch) -> str:
    monkeypatch.setitem(sys.modules, "tensorrt", package(request.param))
    monkeypatch.setattr(record, "CudaMemory", Memory)
    return request.param


def _prepared(backend: TensorRT, plan: PrecisionPlan, conv_net, images, folder):
    return backend.prepare(conv_net(0), (images[:2],), plan, [(images,)], folder)


def _facts(path) -> dict:
    return json.loads(path.read_bytes().partition(b"\0")[0])


@pytest.mark.parametrize(
    ("precision", "executed", "low_db", "high_db"),
    [
        ("fp32", "fp32", 100, 1000), ("tf32", "tf32 allowed, tensors fp32", 100, 1000), ("fp16", "fp16", 45, 80),
        ("int8", "int8 (", 20, 60),
    ],
)  # fmt: skip
def test_both_generations_build_and_run_every_precision(
    version, conv_net, images, graphs, tmp_path, precision, executed, low_db, high_db
) -> None:
    backend = TensorRT(contained=False)
    assert backend.probe().ok
    artefact = _prepared(backend, PrecisionPlan(default=precision), conv_net, images, graphs)
    subject = subject_of(backend, artefact, conv_net(0))
    assert subject.executed.startswith(executed)
    agreement = agreement_db([conv_net(0)(images)["scores"]], [subject.run(images)["scores"]])
    assert low_db < agreement < high_db
    assert ("TF32" in _facts(artefact.path)["flags"]) == (precision == "tf32")
    assert set(subject.run(images[:1])) == {"scores", "features"}
    subject.close()
    with pytest.raises(BackendError, match="closed"):
        subject.run(images)


def test_exceptions_of_a_plan_stay_in_fp32(version, conv_net, images, graphs) -> None:
    plan = PrecisionPlan(default="fp16", nodes={"node_conv2d": "fp32"})
    for typing in ("strong", "weak"):
        backend = TensorRT(contained=False, typing=typing)
        if typing == "weak" and version.startswith("11"):
            with pytest.raises(BackendError, match="knows strong typing only"):
                _prepared(backend, plan, conv_net, images, graphs)
            continue
        artefact = _prepared(backend, plan, conv_net, images, graphs)
        layers = dict(_facts(artefact.path)["layers"])
        assert layers["node_conv2d"] == "fp32"
        assert layers["node_conv2d_1"] == "fp16"
        assert backend.load(artefact).executed_precision().startswith("fp16 (")


def test_weak_typing_says_so_and_refuses_layers_that_are_not_there(conv_net, images, graphs, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", package("10.3.0"))
    monkeypatch.setattr(record, "CudaMemory", Memory)
    backend = TensorRT(contained=False, typing="weak")
    artefact = _prepared(backend, PrecisionPlan(default="fp16"), conv_net, images, graphs)
    assert "weak typing" in artefact.notes[0]
    assert "FP16" in _facts(artefact.path)["flags"]
    with pytest.raises(BackendError, match=r"no layers \['merged'\]"):
        _prepared(backend, PrecisionPlan(default="fp16", nodes={"merged": "fp32"}), conv_net, images, graphs)


def test_an_engine_is_built_once_and_takes_batches_of_its_profile(version, conv_net, images, graphs) -> None:
    backend = TensorRT(contained=False, max_batch=4)
    first = _prepared(backend, PrecisionPlan(), conv_net, images, graphs)
    again = _prepared(backend, PrecisionPlan(), conv_net, images, graphs)
    assert again.path == first.path
    assert again.notes[0] == "found, not built again"
    session = backend.load(again)
    assert len(session(images[:4])["scores"]) == 4
    with pytest.raises(BackendError, match="does not take image of shape"):
        session(images)


def test_what_the_parser_and_the_builder_refuse_is_one_line(version, conv_net, images, graphs, monkeypatch) -> None:
    backend = TensorRT(contained=False)
    unsigned = PrecisionPlan(default="int8", quantiser={"symmetric": False})
    with pytest.raises(BackendError, match="the parser refuses the graph: UINT8 constant"):
        _prepared(backend, unsigned, conv_net, images, graphs)
    monkeypatch.setattr(engine, "_profile", lambda *_: None)
    monkeypatch.setattr("fake_tensorrt.Config.add_optimization_profile", lambda *_: 0)
    with pytest.raises(BackendError, match="gives no engine"):
        _prepared(TensorRT(contained=False, max_batch=7), PrecisionPlan(), conv_net, images, graphs)


def test_without_the_package_it_cannot_run_here(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    available = TensorRT().probe()
    assert not available.ok
    assert "needs tensorrt and a GPU" in available.reason


def test_outputs_are_those_of_the_weights_given(version, conv_net, images, graphs) -> None:
    backend = TensorRT(contained=False)
    for seed in (0, 1):
        artefact = backend.prepare(conv_net(seed), (images[:2],), PrecisionPlan(), None, graphs)
        torch.testing.assert_close(backend.load(artefact)(images)["scores"], conv_net(seed)(images)["scores"])
