"""From ``backend:precision`` to a running subject that says what it really runs in."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor, nn

from holdfast.core.contracts import Artefact, Backend, PrecisionPlan, Subject
from holdfast.core.discover import build
from holdfast.core.errors import BackendError

__all__ = ["find_backend", "open_subject", "subject_of"]


def open_subject(
    spec: str,
    model: nn.Module,
    example: tuple[Tensor, ...],
    calibration: Iterable[tuple[Tensor, ...]] | None,
    folder: Path,
) -> Subject:
    """Prepare and load ``model`` in a back-end.

    Args:
        spec: ``"onnxruntime:int8"``: a file of ``deploy/backends/`` and one of its precisions.
        model: any module; not changed. It becomes the subject's eager twin.
        example: positional inputs of the model, at least two samples.
        calibration: batches of inputs, for precisions whose ranges are measured.
        folder: artefacts are written here and found again by content.

    Returns:
        The subject; `Subject.close` releases its session.

    Raises:
        InputError: no such back-end, naming the nearest.
        BackendError: it cannot run here, lacks the precision (those it has are listed), or fails on this model.
    """
    name, _, precision = spec.partition(":")
    backend = find_backend(name)
    plan = PrecisionPlan(default=precision or "fp32")
    artefact = backend.prepare(model, example, plan, calibration, folder)
    return subject_of(backend, artefact, model)


def find_backend(name: str) -> Backend:
    """The back-end of a name with default options, if it can run here.

    Raises:
        InputError: no such back-end, naming the nearest.
        BackendError: it cannot run here, with the reason.
    """
    backend: Backend = build("backend", name)
    available = backend.probe()
    if not available.ok:
        raise BackendError(f"cannot run here: {available.reason}", where=name)
    return backend


def subject_of(backend: Backend, artefact: Artefact, model: nn.Module) -> Subject:
    """Load an artefact; a precision that was requested but did not execute is said in the notes."""
    session = backend.load(artefact)
    requested, executed = artefact.plan.default, session.executed_precision()
    unmet = () if executed.startswith(requested) else (f"{requested} was requested, {executed} executed",)
    eager = artefact.backend == "eager" and artefact.module is not None and requested != "fp32"
    return Subject(
        backend=artefact.backend, precision=requested, executed=executed, run=session,
        model=artefact.module if eager else model, notes=artefact.notes + unmet, close=session.close,
    )  # fmt: skip
