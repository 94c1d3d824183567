"""What a report is made of; nothing here computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from holdfast.core.config import Study
from holdfast.core.contracts import Picture
from holdfast.core.rows import Row
from holdfast.select.gates import GateResult
from holdfast.select.table import Candidate
from holdfast.select.verdict import Verdict

if TYPE_CHECKING:
    import numpy as np

__all__ = ["ReportInput", "Show"]


class Show(Protocol):
    """Pictures and curves of one candidate; the same frames for every candidate shown."""

    @property
    def recipe(self) -> str:
        """Name of the recipe."""

    @property
    def weights(self) -> str:
        """Which of its weights."""

    @property
    def pictures(self) -> Sequence[Picture]:
        """Frames with lines by role: ``truth``, ``reference``, ``deployed``."""

    @property
    def series(self) -> Mapping[str, np.ndarray]:
        """Curves over one sequence: ``truth``, and ``reference`` and ``deployed``, alone or as ``role: name``."""


@dataclass(frozen=True, kw_only=True)
class ReportInput:
    """Everything a report shows.

    Args:
        study: the study.
        rows: rows of its current cells.
        verdict: see `holdfast.select.verdict.judge`.
        gates: see `holdfast.select.gates.check_gates`.
        shows: baseline first, recommended second; empty where the task draws nothing.
        failures: reason by name of the cell that failed.
        provenance: environment of the run, nested mappings of plain values.
        stale_count: rows of earlier settings, kept but not used.
    """

    study: Study
    rows: Sequence[Row]
    verdict: Verdict
    gates: Sequence[GateResult] = ()
    shows: Sequence[Show] = ()
    failures: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    stale_count: int = 0

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Candidates in the order of the report: baseline, recommended, then the others."""
        first = [c for c in (self.verdict.baseline, self.verdict.recommended) if c is not None]
        return tuple(dict.fromkeys([*first, *(s.candidate for s in self.verdict.standings)]))
