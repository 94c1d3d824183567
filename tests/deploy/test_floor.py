from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from holdfast.core.contracts import PrecisionPlan
from holdfast.deploy.backends.eager import Eager
from holdfast.deploy.backends.onnxruntime import OnnxRuntime
from holdfast.deploy.floor import eager_changes, fp64_floor_db, one_by_one, session_changes
from holdfast.deploy.fold import agreement_db
from holdfast.deploy.nest import flatten


def test_changes_of_the_eager_model_alter_rounding_alone(conv_net, images) -> None:
    model = conv_net(0)
    threads = torch.get_num_threads()
    with torch.no_grad():
        plain = flatten(model(images))[0]
    changes = eager_changes(model, (images,))
    assert set(changes) == {"batch of one", "threads", "channels last", "oneDNN off"}
    agreements = {name: agreement_db(plain, flatten(outputs)[0]) for name, outputs in changes.items()}
    assert all(agreement > 110 for agreement in agreements.values()), agreements
    assert min(agreements.values()) < math.inf
    assert torch.get_num_threads() == threads
    assert next(model.parameters()).is_contiguous()


def test_changes_of_a_session(conv_net, images, graphs, tmp_path) -> None:
    backend, model = OnnxRuntime(), conv_net(0)
    artefact = backend.prepare(model, (images[:2],), PrecisionPlan(), None, graphs)
    rebuilt = replace(artefact, path=tmp_path / "again.onnx")
    rebuilt.path.write_bytes(artefact.path.read_bytes())
    session = backend.load(artefact)
    plain = flatten(session(images))[0]
    changes = session_changes(backend, artefact, (images,), rebuilt)
    assert set(changes) == {"batch of one", "threads", "built again"}
    assert all(agreement_db(plain, flatten(outputs)[0]) > 110 for outputs in changes.values())


def test_a_backend_without_threads_has_one_change_less(conv_net, images, tmp_path) -> None:
    backend = Eager()
    artefact = backend.prepare(conv_net(0), (images[:2],), PrecisionPlan(), None, tmp_path)
    assert list(session_changes(backend, artefact, (images,))) == ["batch of one"]


def test_one_by_one_sees_one_sample_at_a_time(images) -> None:
    seen = []

    def run(x: Tensor) -> dict[str, Tensor]:
        seen.append(len(x))
        return {"mean": x.mean(dim=(1, 2, 3))}

    assert torch.equal(one_by_one(run, (images,))["mean"], images.mean(dim=(1, 2, 3)))
    assert seen == [1] * 6


def test_rounding_of_fp32_is_seen_and_nothing_is_changed() -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(64, 64).eval(), torch.rand(8, 64)
    assert 110 < fp64_floor_db(model, (x,)) < 180
    assert model.weight.dtype is torch.float32


class _Cancelling(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x + 1e5) - 1e5


class _SinglePrecision(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x @ torch.eye(3, dtype=torch.float32)


def test_an_ill_conditioned_model_has_a_low_floor() -> None:
    assert fp64_floor_db(_Cancelling(), (torch.rand(100),)) < 60


def test_a_model_that_cannot_run_in_fp64_has_none() -> None:
    assert fp64_floor_db(_SinglePrecision(), (torch.rand(2, 3),)) == math.inf
