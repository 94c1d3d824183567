"""What is to be diagnosed, as plain data that a worker process can be sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from holdfast.core.errors import InputError

__all__ = ["Kind", "Order", "kind_of"]

Kind = Literal["weights", "graph", "recorded"]
QUICK_SAMPLES = 96
QUICK_SECONDS = 45.0


@dataclass(frozen=True, kw_only=True)
class Order:
    """What `holdfast.diagnose.run.diagnose` does.

    Args:
        path: weights, an ``.onnx`` file, or the ``outputs.npz`` of a recording.
        task: a built-in task, ``file.py:name`` or ``package.module:name``; empty: that of the run folder.
        out: folder of data, rows and results; an interrupted run goes on there.
        options: of the task's factory.
        twin: weights of the same model, on which gradients exist, where the subject has none.
        quick: few samples, short probes, and nothing new is begun after about fifty seconds.
        split: split of single samples.
        sequences: split of ordered frames; passed over where the task has none.
        pipelines: the first is the reference; default: all of the task, ``train`` first.
        subjects: ``backend:precision`` to compare weights in; default: by `SUBJECTS`.
        probes: names; default: all that there are.
        limit: at most that many samples of a split; None: all, or 96 when quick.
        tolerance: what the first metric may lose, in its unit, before it counts as broken; None: 0.05 for shares, a
            quarter of the undisturbed value for the rest.
    """

    path: Path
    task: str
    out: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    twin: Path | None = None
    quick: bool = False
    split: str = "report"
    sequences: str = "report_sequence"
    pipelines: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()
    probes: tuple[str, ...] = ()
    limit: int | None = None
    tolerance: float | None = None

    @property
    def samples(self) -> int | None:
        """How many samples of a split are used at most."""
        return self.limit or (QUICK_SAMPLES if self.quick else None)

    @property
    def seconds(self) -> float | None:
        """After how long nothing new is begun."""
        return QUICK_SECONDS if self.quick else None


def kind_of(path: Path) -> Kind:
    """What a file is, by its suffix.

    Raises:
        InputError: no such file or folder.
    """
    if not path.exists():
        raise InputError("no such file", where=str(path), fix="give weights, an .onnx file or outputs.npz")
    if path.suffix.lower() == ".onnx":
        return "graph"
    return "recorded" if path.suffix.lower() == ".npz" else "weights"
