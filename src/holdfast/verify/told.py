"""A verification as JSON and as text, and what has changed since an earlier one."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.core.errors import InputError
from holdfast.core.plain import plain
from holdfast.deploy.parity import Finding, Flips
from holdfast.verify.measure import Compared
from holdfast.verify.run import Verification
from holdfast.verify.sentence import amount
from holdfast.verify.why import words

__all__ = ["Change", "changes", "floor", "read_baseline", "text", "to_json"]

FORMAT = "holdfast verify 1"


def to_json(found: Verification, moved: list[Change]) -> dict[str, Any]:
    """Everything, in the types of JSON."""
    record: dict[str, Any] = plain(found)
    return {"format": FORMAT, "outcome": found.outcome, **record, "since_baseline": plain(moved)}


# --- an earlier run -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Change:
    """A quantity that an earlier verification measured too."""

    factor: str
    subject: str
    pipeline: str
    split: str
    name: str
    unit: str
    before: float
    after: float
    within_floor: bool


def read_baseline(path: Path) -> Mapping[str, Any]:
    """An earlier ``verify.json``.

    Raises:
        InputError: it is something else.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"is no verification: {error}", where=str(path)) from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise InputError("is no verification", where=str(path), fix="give the verify.json of an earlier run")
    return record


def changes(found: Verification, baseline: Mapping[str, Any]) -> list[Change]:
    """Every quantity of both runs, the largest change relative to its margin or size first."""
    before = {
        (part["factor"], part["subject"], part["pipeline"], part["split"], finding["name"]): finding
        for part in baseline["compared"]
        for finding in part["findings"]
    }
    moved = []
    for part, finding in _findings(found):
        old = before.get((part.factor, part.subject, part.pipeline, part.split, finding.name))
        if old is not None:
            then, now = float(old["interval"]["estimate"]), finding.interval.estimate
            moved.append(Change(
                factor=part.factor, subject=part.subject, pipeline=part.pipeline, split=part.split, name=finding.name,
                unit=finding.unit, before=then, after=now,
                within_floor=abs(now - then) <= max(finding.floor, float(old["floor"])),
            ))  # fmt: skip
    return sorted(moved, key=lambda change: -abs(change.after - change.before) / (abs(change.before) or 1e-12))


def _findings(found: Verification) -> Iterator[tuple[Compared, Finding]]:
    for part in found.compared:
        for finding in part.findings:
            yield part, finding


# --- for people -----------------------------------------------------------------------------------------


def text(found: Verification, moved: list[Change]) -> str:
    """The verification in words, for a terminal; the page holds the rest."""
    lines = [f"{found.outcome}: {found.task}, weights {found.weights['key']}", "", *textwrap.wrap(found.sentence, 100)]
    lines += ["", *_inputs(found), "subjects:", *(_subject(ran) for ran in found.subjects), ""]
    lines += [f"noise floor ({name}): {value:.2g}" for name, value in floor(found)]
    for part in found.compared:
        shown = _shown(part)
        if shown:
            lines += ["", f"{part.subject} under {part.pipeline} on {part.split} ({part.factor}):"]
            lines += [f"  {_finding(finding)}" for finding in shown]
            lines += [f"  {_flips(part.flips)}"] if part.flips else []
    lines += ["", "causes:"] if found.why else []
    lines += [f"  {line}" for told in found.why for line in words(told)]
    if found.hazards:
        lines += ["", "in fp16 this graph is in danger; holdfast repair finds the fewest nodes to keep in fp32:"]
        lines += [f"  {hazard.rule} at {hazard.node}: {hazard.reason}; {hazard.fix}" for hazard in found.hazards]
    if moved:
        lines += ["", "since the earlier run (largest changes):"]
        lines += [f"  {c.name} of {c.subject} under {c.pipeline}: {c.before:.3g} -> {c.after:.3g}"
                  f"{' (within the floor)' if c.within_floor else ''}" for c in moved[:8]]  # fmt: skip
    return "\n".join(lines)


def _inputs(found: Verification) -> list[str]:
    lines = [f"input {move.leaf} under {move.pipeline}: moved by {move.mean:.3g} on average, p99 {move.p99:.3g}, "
             f"largest {move.largest:.3g} units" for move in found.inputs]  # fmt: skip
    return [*lines, ""] if lines else []


def _subject(ran: Any) -> str:
    notes = f" [{'; '.join(ran.notes)}]" if ran.notes else ""
    return f"  {ran.name}: executed {ran.executed}{'' if ran.met else ' (NOT what was asked for)'}{notes}"


def floor(found: Verification) -> list[tuple[str, float]]:
    """The noise floor of each quantity: the largest mean over subjects and changes."""
    highest: dict[str, float] = {}
    for wobble in found.floor:
        highest[wobble.quantity] = max(highest.get(wobble.quantity, 0.0), wobble.mean)
    return list(highest.items())


def _finding(finding: Finding) -> str:
    interval = finding.interval
    said = f"{finding.name}: {'+' if finding.kind == 'difference' and interval.estimate >= 0 else ''}{amount(finding)}"
    if interval.bounded:
        said += f" [{interval.low:.3g}, {interval.high:.3g}]"
    said += f", worst {finding.worst:.3g}, n {finding.samples} in {interval.n} groups"
    if finding.outcome:
        said += f": {finding.outcome} (margin {finding.margin:g})"
    if finding.needed:
        said += f", about {finding.needed} groups would decide"
    return said + (", below the noise floor" if finding.below_floor else "")


def _shown(part: Compared) -> list[Finding]:
    """What a terminal has room for: what was judged, else the first metric and the first drift of a single factor."""
    judged = [finding for finding in part.findings if finding.outcome]
    first = [next((f for f in part.findings if f.kind == kind), None) for kind in ("difference", "displacement")]
    return judged or ([f for f in first if f is not None] if part.factor != "both" else [])


def _flips(flips: Flips) -> str:
    parts = [
        f"{100 * share.estimate:.2g} % {name} [{100 * share.low:.2g}, {100 * share.high:.2g}]"
        for name, share in (("harmful", flips.harmful), ("helpful", flips.helpful))
    ]
    return f"decisions that flipped: {', '.join(parts)} of {flips.samples}"
