from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from holdfast.core.contracts import Artefact, Availability, Backend, PrecisionPlan
from holdfast.core.errors import BackendError, InputError
from holdfast.deploy import subjects
from holdfast.deploy.fold import agreement_db
from holdfast.deploy.subjects import find_backend, open_subject, subject_of


@pytest.fixture
def opened(conv_net, images, graphs):
    def build(spec: str):
        return open_subject(spec, conv_net(0), (images[:2],), [(images,)], graphs)

    return build


@pytest.mark.parametrize(
    ("spec", "executed", "least_db"),
    [
        ("eager:fp32", "fp32", 120), ("eager:fp64", "fp64", 120), ("eager:bf16", "bf16", 25),
        ("eager:fp16", "fp16", 45),
        ("emulated:fp16", "fp16 (emulated)", 45), ("emulated:bf16", "bf16 (emulated)", 25),
        ("emulated:tf32", "tf32 (emulated)", 45), ("onnxruntime:fp32", "fp32", 100), ("onnxruntime:int8", "int8", 20),
        ("onnxruntime:fp16", "fp32", 45),
    ],
)  # fmt: skip
def test_subjects_say_what_they_run_in_and_are_that_near(opened, conv_net, images, spec, executed, least_db) -> None:
    subject = opened(spec)
    assert (subject.name, subject.executed) == (spec, executed)
    with torch.no_grad():
        truth = conv_net(0).double()(images.double())["scores"]
    agreement = agreement_db([truth], [subject.run(images)["scores"]])
    assert least_db < agreement
    assert agreement < least_db + 45 or least_db >= 100
    subject.close()
    with pytest.raises(BackendError, match="closed"):
        subject.run(images)


def test_precision_defaults_to_fp32(opened) -> None:
    assert opened("onnxruntime").name == "onnxruntime:fp32"


def test_unknown_names_are_answered_with_the_known(opened) -> None:
    with pytest.raises(InputError, match="did you mean 'onnxruntime'"):
        opened("onnxruntme:fp32")
    with pytest.raises(BackendError, match=r"no precision 'fp8' .*fp16, fp16_accumulate, bf16, tf32"):
        opened("emulated:fp8")


def test_capabilities_follow_the_module_that_runs(opened, images) -> None:
    for spec in ("eager:fp32", "eager:bf16"):
        subject = opened(spec)
        assert "gradient" in subject.capabilities
        x = images.clone().requires_grad_()
        outputs = subject.model(x)["scores"]
        torch.testing.assert_close(outputs, subject.run(images)["scores"])
        assert torch.autograd.grad(outputs.sum(), x)[0].abs().sum() > 0
    emulated = opened("emulated:bf16")
    assert emulated.capabilities == {"forward"}
    assert emulated.model is not None


@dataclass(frozen=True)
class _Hint:
    """Takes an fp16 hint and computes in fp32, as some runtimes do."""

    precisions: ClassVar[tuple[str, ...]] = ("fp16",)
    ok: bool = True

    def probe(self) -> Availability:
        return Availability(ok=self.ok, reason="no such device")

    def prepare(
        self, model: nn.Module, example: object, plan: PrecisionPlan, calibration: object, folder: Path
    ) -> Artefact:
        return Artefact(backend="hint", plan=plan, key="", module=model, notes=("built",))

    def load(self, artefact: Artefact) -> _Session:
        return _Session()


class _Session:
    def __call__(self, *inputs: Tensor) -> Tensor:
        return inputs[0]

    def executed_precision(self) -> str:
        return "fp32"

    def close(self) -> None:
        pass


def test_a_precision_that_did_not_execute_is_said() -> None:
    backend = _Hint()
    assert isinstance(backend, Backend)
    artefact = backend.prepare(nn.Identity(), (), PrecisionPlan(default="fp16"), None, Path())
    subject = subject_of(backend, artefact, nn.Identity())
    assert subject.executed == "fp32"
    assert subject.notes == ("built", "fp16 was requested, fp32 executed")


def test_a_backend_that_cannot_run_here_says_why(monkeypatch) -> None:
    monkeypatch.setattr(subjects, "build", lambda kind, name: _Hint(ok=False))
    with pytest.raises(BackendError, match="hint: cannot run here: no such device"):
        find_backend("hint")
