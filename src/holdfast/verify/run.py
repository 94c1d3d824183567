"""Verify: inputs first, then the two-factor table, then margins, with the noise floor beside everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from holdfast.core.errors import BackendError
from holdfast.core.fingerprint import environment
from holdfast.core.progress import Progress
from holdfast.deploy.export import export_onnx
from holdfast.deploy.identity import weights_key
from holdfast.deploy.lint import Hazard, lint
from holdfast.verify.cells import Cells, Opened
from holdfast.verify.measure import (
    Compared,
    InputMove,
    Wobble,
    bench_of,
    compare,
    input_moves,
    means,
    wobbles,
)  # fmt: skip
from holdfast.verify.order import Order
from holdfast.verify.sentence import attribution, fp16_range
from holdfast.verify.why import Why, why

__all__ = ["Ran", "Verification", "verify"]

EXIT_CODES = {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3, "NOT JUDGED": 0}


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A subject that was verified: what it was asked for and what it did."""

    name: str
    precision: str
    executed: str
    notes: tuple[str, ...]

    @property
    def met(self) -> bool:
        """Whether the requested precision executed."""
        return self.executed.startswith(self.precision)


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Everything a verification found; no weights and no images, so that it can be shared.

    Args:
        task, weights: what was verified; ``weights`` holds the key and what the file says of itself.
        subjects: the reference first.
        preprocessing: the reference first.
        inputs: how far pipelines move the input.
        floor: the noise floor.
        cells: mean of each metric by split, pipeline and subject: the two-factor table.
        compared: subjects and pipelines against the reference.
        sentence: whether the input or the arithmetic is to blame, and the range of fp16 where it was emulated.
        why: causes found in graphs from elsewhere.
        hazards: what in the exported graph goes wrong in fp16, where a subject runs in it.
        environment: versions and hardware.
    """

    task: str
    weights: Mapping[str, Any]
    subjects: tuple[Ran, ...]
    preprocessing: tuple[str, ...]
    inputs: tuple[InputMove, ...]
    floor: tuple[Wobble, ...]
    cells: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]
    compared: tuple[Compared, ...]
    sentence: str
    why: tuple[Why, ...]
    hazards: tuple[Hazard, ...]
    environment: Mapping[str, Any]

    @property
    def outcome(self) -> str:
        """The worst of all judged findings: ``FAIL``, ``INCONCLUSIVE``, ``PASS``, or ``NOT JUDGED`` without margins."""
        found = {finding.outcome for part in self.compared for finding in part.findings}
        return next((outcome for outcome in ("FAIL", "INCONCLUSIVE", "PASS") if outcome in found), "NOT JUDGED")

    @property
    def exit_code(self) -> int:
        """0 pass, 1 fail, 3 inconclusive."""
        return EXIT_CODES[self.outcome]


def verify(order: Order, *, quiet: bool = False) -> Verification:
    """Measure and judge; the same call after an interruption does only what is missing.

    Args:
        order: what is asked for.
        quiet: no progress.

    Raises:
        InputError: names the task does not know, files that cannot be read.
        BackendError: a subject that cannot be opened or fails.
    """
    order.check()
    with Progress(quiet=quiet) as progress, Cells(order, progress) as cells:
        bench, splits = bench_of(cells), cells.splits()
        floor = tuple(wobbles(cells, order.out / "rebuilt"))
        table = {
            split: {
                pipeline: {opened.label: means(cells, bench, split, pipeline, opened) for opened in cells.opened}
                for pipeline in order.preprocessing
            }
            for split in splits
        }
        compared = tuple(
            _void(compare(cells, bench, split, opened, pipeline, factor=factor, floor=_highest(floor)), opened)
            for split in splits
            for factor, opened, pipeline in _comparisons(cells.opened, order.preprocessing)
        )
        return Verification(
            task=order.source.task.name,
            weights={"key": weights_key(order.source.model), "about": dict(order.source.about)},
            subjects=tuple(_ran(opened) for opened in cells.opened),
            preprocessing=order.preprocessing,
            inputs=tuple(input_moves(cells)),
            floor=floor,
            cells=table,
            compared=compared,
            sentence=f"{attribution(compared)} {fp16_range(compared)}".strip(),
            why=tuple(why(cells)),
            hazards=_hazards(cells),
            environment=environment(),
        )


def _hazards(cells: Cells) -> tuple[Hazard, ...]:
    """Errors that lint finds in the graph; none where nothing runs in fp16 or the model cannot be exported."""
    if not any(opened.subject.precision.startswith("fp16") for opened in cells.opened):
        return ()
    try:
        graph = export_onnx(cells.model, cells.few(2), cells.order.out / "artefacts").path
    except BackendError:
        return ()
    return tuple(hazard for hazard in lint(onnx.load(graph)) if hazard.severity == "error")


def _ran(opened: Opened) -> Ran:
    subject = opened.subject
    # Paths of this machine are nobody's business.
    notes = tuple(note.replace(f"{Path.cwd()}/", "") for note in subject.notes)
    return Ran(name=opened.label, precision=subject.precision, executed=subject.executed, notes=notes)


def _comparisons(opened: Sequence[Opened], preprocessing: Sequence[str]) -> list[tuple[str, Opened, str]]:
    """(factor, subject, pipeline): every cell of the table but the reference, and arithmetic pipeline by pipeline."""
    reference, *others = opened
    rest = preprocessing[1:]
    found = [("input", reference, pipeline) for pipeline in rest]
    found += [("arithmetic", other, pipeline) for other in others for pipeline in preprocessing]
    return found + [("both", other, pipeline) for other in others for pipeline in rest]


def _highest(floor: Sequence[Wobble]) -> dict[str, float]:
    """The largest mean wobble of each quantity: what lies below is blamed on nobody."""
    found: dict[str, float] = {}
    for wobble in floor:
        found[wobble.quantity] = max(found.get(wobble.quantity, 0.0), wobble.mean)
    return found


def _void(compared: Compared, opened: Opened) -> Compared:
    """Where another precision executed than was asked for, nothing passes."""
    if _ran(opened).met:
        return compared
    findings = (replace(f, outcome="INCONCLUSIVE") if f.outcome == "PASS" else f for f in compared.findings)
    return replace(compared, findings=tuple(findings))
