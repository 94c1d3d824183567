"""What every back-end promises, built-in or not; a new one is tested here without a change."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from holdfast.core.contracts import Artefact, Backend, PrecisionPlan, Session
from holdfast.core.discover import build, names
from holdfast.core.errors import BackendError
from holdfast.deploy.fold import agreement_db

torch.set_num_threads(1)

_LEAST_DB = {"fp64": 100, "fp32": 90, "tf32": 40, "fp16": 40, "bf16": 20, "int8": 15}


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 3)

    def forward(self, image: Tensor) -> dict[str, Tensor | tuple[Tensor, ...]]:
        features = self.norm(self.conv(image)).relu()
        return {"scores": self.head(features.mean(dim=(2, 3))), "maps": (features[:, :1], features.amax(dim=1))}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    net = _Net()
    with torch.no_grad():
        net.train()(torch.rand(8, 3, 12, 16))
    return net.eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(5, 3, 12, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("artefacts")


def _usable() -> list[tuple[str, str]]:
    found = []
    for name in names("backend"):
        available = build("backend", name).probe()
        kinds = available.precisions if available.ok else {}
        found += [(name, precision) for precision, worth in kinds.items() if worth != "unsupported"]
    return found


@pytest.fixture(scope="module", params=_usable(), ids=":".join)
def artefact(request: pytest.FixtureRequest, model: nn.Module, images: Tensor, folder: Path) -> Artefact:
    name, precision = request.param
    return build("backend", name).prepare(model, (images[:2],), PrecisionPlan(default=precision), [(images,)], folder)


@pytest.fixture
def session(artefact: Artefact) -> Iterator[Session]:
    opened = build("backend", artefact.backend).load(artefact)
    yield opened
    opened.close()


def _tensors(outputs: dict) -> list[Tensor]:
    return [outputs["scores"], *outputs["maps"]]


@pytest.mark.parametrize("name", names("backend"))
def test_probe_answers_and_the_contract_is_met(name: str) -> None:
    backend = build("backend", name)
    assert isinstance(backend, Backend)
    available = backend.probe()
    assert available.reason
    assert set(available.precisions) <= set(backend.precisions)
    assert set(available.precisions.values()) <= {"native", "emulated", "upcast", "unsupported"}


def test_outputs_have_the_nest_shapes_and_dtypes_of_the_model(session, artefact, model, images) -> None:
    expected, got = model(images), session(images)
    assert list(got) == list(expected)
    assert isinstance(got["maps"], tuple)
    wide = torch.float64 if artefact.plan.default == "fp64" else torch.float32
    for a, b in zip(_tensors(expected), _tensors(got), strict=True):
        assert a.shape == b.shape
        assert b.dtype is wide
        assert not b.requires_grad


def test_outputs_are_as_near_as_the_precision_allows(session, artefact, model, images) -> None:
    least = _LEAST_DB[artefact.plan.default.split("_")[0]]
    assert agreement_db(_tensors(model(images)), _tensors(session(images))) > least


def test_a_batch_is_its_samples(session, artefact, images) -> None:
    whole = _tensors(session(images))
    single = [_tensors(session(images[i : i + 1])) for i in range(len(images))]
    joined = [torch.cat(parts) for parts in zip(*single, strict=True)]
    assert agreement_db(whole, joined) > _LEAST_DB[artefact.plan.default.split("_")[0]]


def test_two_runs_and_two_sessions_give_the_same_bits(session, artefact, images) -> None:
    other = build("backend", artefact.backend).load(artefact)
    first = [tensor.clone() for tensor in _tensors(session(images))]
    session(images.flip(0))
    for again in (session(images), other(images)):
        assert all(torch.equal(a, b) for a, b in zip(first, _tensors(again), strict=True))
    other.close()


def test_inputs_are_left_alone(session, images) -> None:
    kept = images.clone()
    session(images)
    assert torch.equal(images, kept)


def test_nan_does_not_vanish_unsaid(session, artefact, images) -> None:
    if artefact.plan.default == "int8":
        pytest.skip("an integer holds no NaN")
    broken = images.clone()
    broken[1, :, 3, 3] = math.nan
    maps = session(broken)["maps"][0]
    assert maps[1].isnan().any() or any("NaN" in note for note in artefact.notes)
    assert maps[[0, 2, 3, 4]].isfinite().all()


def test_the_executed_precision_is_said(session, artefact) -> None:
    available = build("backend", artefact.backend).probe()
    executed, requested = session.executed_precision(), artefact.plan.default
    if available.precisions[requested] == "native":
        assert executed == requested
    elif available.precisions[requested] == "emulated":
        assert executed == f"{requested} (emulated)"
    else:
        assert not executed.startswith(requested)


def test_closing_twice_is_allowed_and_running_after_it_is_not(artefact, images) -> None:
    opened = build("backend", artefact.backend).load(artefact)
    opened.close()
    opened.close()
    with pytest.raises(BackendError, match="closed"):
        opened(images)


@pytest.mark.parametrize("name", names("backend"))
def test_an_unknown_precision_is_refused_with_those_there_are(name, model, images, folder) -> None:
    backend = build("backend", name)
    with pytest.raises(BackendError, match=", ".join(backend.precisions)):
        backend.prepare(model, (images[:2],), PrecisionPlan(default="int3"), None, folder)


def test_the_model_stays_as_it_was(artefact, model) -> None:
    torch.manual_seed(0)
    fresh = _Net()
    with torch.no_grad():
        fresh.train()(torch.rand(8, 3, 12, 16))
    assert not model.training
    assert all(torch.equal(a, b) for a, b in zip(fresh.state_dict().values(), model.state_dict().values(), strict=True))
