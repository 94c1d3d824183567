"""What is to be verified: weights, subjects, pipelines, splits and what may differ by how much."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from holdfast.core.config import Study, parse_study
from holdfast.core.contracts import Task
from holdfast.core.discover import load_task
from holdfast.core.errors import InputError, nearest
from holdfast.weights import files

__all__ = ["Order", "Source", "load_source", "read_margins"]

SUBJECTS = (
    "eager:fp32", "emulated:tf32", "emulated:fp16", "emulated:fp16_accumulate", "onnxruntime:fp32", "onnxruntime:int8",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Source:
    """A trained model and where it comes from.

    Args:
        task: its task.
        spec: the task as it was named.
        options: of the task's factory.
        base: folder to which a task file is relative.
        model: with its weights, in eval mode.
        weights: the file.
        about: what the file says of itself.
        preprocessing: pipelines of the study in whose run folder the weights lie; empty elsewhere.
    """

    task: Task
    spec: str
    model: nn.Module
    weights: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    base: Path = Path()
    about: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: tuple[str, ...] = ()

    @property
    def pipelines(self) -> tuple[str, ...]:
        """Those of the study, else all that the task has, that of training first."""
        every = ("train", *(name for name in self.task.pipelines if name != "train"))
        return self.preprocessing or every


@dataclass(frozen=True, kw_only=True)
class Order:
    """What `holdfast.verify.run.verify` does.

    Args:
        source: the model.
        subjects: ``backend:precision``; the first is the reference.
        recorded: outputs brought back from a target.
        graphs: ONNX files to run as they are.
        preprocessing: pipelines; the first is the reference, the last the one that ships.
        frames: split of single samples.
        sequences: split of ordered frames; passed over where the task has none.
        margins: by metric or drift: what a subject may differ from the reference under the same pipeline.
        total_margins: the same for subject and pipeline together, against the reference under the first pipeline.
        limit: at most that many samples of a split; none: all, or as many as the kits of the recordings held.
        alpha: level of each one-sided test.
        out: folder of tables, artefacts, outputs and results; an interrupted run goes on there.
    """

    source: Source
    out: Path
    subjects: tuple[str, ...] = SUBJECTS
    recorded: tuple[Path, ...] = ()
    graphs: tuple[Path, ...] = ()
    preprocessing: tuple[str, ...] = ("train",)
    frames: str = "report"
    sequences: str = "report_sequence"
    margins: Mapping[str, float] = field(default_factory=dict)
    total_margins: Mapping[str, float] = field(default_factory=dict)
    limit: int | None = None
    alpha: float = 0.05

    def check(self) -> None:
        """Refuse names that the task does not know.

        Raises:
            InputError: naming the nearest that it knows.
        """
        task = self.source.task
        for name in self.preprocessing:
            if name not in task.pipelines:
                raise InputError(f"no pipeline {name!r}", where="verify", fix=nearest(name, task.pipelines))
        known = [*(metric.name for metric in task.metrics), *(drift.name for drift in task.drifts)]
        for name in (*self.margins, *self.total_margins):
            if name not in known:
                raise InputError(f"no metric or drift {name!r}", where="margin", fix=nearest(name, known))


def read_margins(given: Iterable[str]) -> dict[str, float]:
    """``name=value`` pairs.

    Raises:
        InputError: something else, or a margin that is not positive.
    """
    margins: dict[str, float] = {}
    for text in given:
        name, separator, value = text.partition("=")
        try:
            margins[name] = float(value)
        except ValueError:
            separator = ""
        if not separator or not margins[name] > 0:
            raise InputError(f"{text!r} is no margin", where="--margin", fix="write displacement_42m=0.02")
    return margins


def load_source(weights: Path, task: str = "", options: Mapping[str, Any] | None = None) -> Source:
    """A model from its weights; in a run folder the study says which task it belongs to.

    Args:
        weights: a weight file.
        task: a built-in task, ``file.py:name`` or ``package.module:name``; empty: that of the run folder.
        options: of the task's factory.

    Raises:
        InputError: no weights, no task, or weights of another model (naming the first entry that differs).
    """
    state, about = files.load(weights)
    spec, base, given = task, Path(), dict(options or {})
    preprocessing: tuple[str, ...] = ()
    if not task:
        study, base = _study_of_run(weights)
        spec, given, preprocessing = study.task, study.task_options, tuple(study.preprocessing)
    found = load_task(spec, given, base=base)
    model = found.build_model()
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"are not weights of task {found.name!r}: {reason}", where=str(weights)) from None
    return Source(
        task=found, spec=spec, options=given, base=base, model=model.eval(), weights=weights, about=about,
        preprocessing=preprocessing,
    )  # fmt: skip


def _study_of_run(weights: Path) -> tuple[Study, Path]:
    """The study in whose run folder a weight file lies, and the folder to which its task file is relative."""
    for folder in weights.resolve().parents:
        record = folder / "study.json"
        if record.is_file():
            stored = json.loads(record.read_text(encoding="utf-8"))
            if not {"study", "base"} <= set(stored):
                raise InputError("names no task: was it written by another version?", where=str(record),
                                 fix="give --task")  # fmt: skip
            return parse_study(stored["study"], where=str(record)), Path(stored["base"])
    raise InputError("lies in no run folder", where=str(weights), fix="give --task")
