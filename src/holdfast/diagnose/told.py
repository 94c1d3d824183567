"""A diagnosis in words: the sentence on top, findings as text, everything as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from holdfast.core.flags import MEANING
from holdfast.core.plain import plain
from holdfast.diagnose.findings import Finding
from holdfast.diagnose.run import Diagnosis, Entry
from holdfast.select.wording import amount, change, count, number

__all__ = ["described", "headline", "text", "to_json"]

FORMAT = "holdfast diagnose 1"
SHOWN = 12
WORDS = {
    "pipeline": "under the pipeline {}", "precision": "in {}", "both": "in {}", "repair": "by a fault that {} undoes",
    "step": "from the preprocessing step {}", "layer": "with layer {} alone at low precision",
    "criticality": "with layer {} reset", "strength": "under {}",
}  # fmt: skip


def to_json(found: Diagnosis, *, treated: bool = True) -> dict[str, Any]:
    """Everything, in the types of JSON; ``treated``: with what to do about it."""
    record: dict[str, Any] = plain(found)
    if not treated:
        del record["treatments"]
    for finding, made in zip(record["findings"], found.findings, strict=True):
        finding |= {"as_shipped": made.as_shipped, "breaks": made.breaks, "breaks_at": made.breaks_at}
    return {"format": FORMAT, "exit_code": found.exit_code, "headline": headline(found), **record}


def headline(found: Diagnosis) -> str:
    """What matters most, in one or two sentences."""
    shipped = [finding for finding in found.findings if finding.as_shipped and finding.breaks]
    disturbed = [finding for finding in found.findings if finding.kind == "strength" and finding.breaks]
    if not found.findings:
        late = any(entry.state == "cut" for entry in found.entries)
        said = "The time was over before anything was found" if late else "Nothing could be measured"
        return f"{said}: see what became of each probe."
    if shipped:
        said = f"As it ships it loses {_loss(shipped[0])}."
    else:
        said = "As it ships nothing costs more than is tolerated."
    if disturbed:
        said += f" Disturbed it loses most, {_loss(disturbed[0])}{_from(disturbed[0])}."
    return said


def _loss(finding: Finding) -> str:
    return f"{amount(finding.damage, finding.unit)} of {finding.metric} {described(finding)}"


def _from(finding: Finding) -> str:
    if finding.breaks_at is None:
        return ""
    return f", and breaks from {finding.measure} {finding.breaks_at:g} on"


def described(finding: Finding) -> str:
    """The circumstance, e.g. ``under pgd (attacked on the twin)``."""
    said = WORDS[finding.kind].format(finding.name)
    return f"{said} ({finding.condition})" if finding.kind in ("layer", "criticality") else said


def text(found: Diagnosis, *, treated: bool = True) -> str:
    """The diagnosis for a terminal; ``treated``: with what to do about it."""
    first = " (a first look)" if found.quick else ""
    lines = [headline(found), "", f"{found.file} as {found.subject} on task {found.task}{first}"]
    lines += [f"  {note}" for note in found.notes]
    lines += ["", *_findings(found)]
    if treated and found.treatments:
        lines += ["", "what to do, the most urgent first:"]
        for i, treatment in enumerate(found.treatments, 1):
            lines += [f"  {i}. {treatment.title}: {treatment.how}"]
            lines += [f"       because {reason}" for reason in treatment.evidence]
    lines += ["", "probes:", *(f"  {_entry(entry)}" for entry in found.entries)]
    return "\n".join(lines)


def _findings(found: Diagnosis) -> Iterator[str]:
    if not found.findings:
        return
    first = found.findings[0]
    yield f"what costs how much of {first.metric}, undisturbed {amount(first.baseline, first.unit)}:"
    for finding in found.findings[:SHOWN]:
        yield f"  {_line(finding)}"
    if len(found.findings) > SHOWN:
        yield f"  and {count(len(found.findings) - SHOWN, 'smaller finding')}"
    for flag in dict.fromkeys(flag for finding in found.findings for flag in finding.flags):
        yield f"  {flag}: {MEANING.get(flag, 'not documented')}"


def _line(finding: Finding) -> str:
    said = f"{number(finding.damage):>8} {change(finding.value, finding.baseline):>7}  {described(finding)}"
    if finding.interval is not None and finding.interval.bounded:
        said += f" [{number(finding.interval.low)}, {number(finding.interval.high)}]"
    said += f", n {finding.n}"
    if finding.breaks_at is not None:
        holds = f", holds to {finding.holds_to:g}" if finding.holds_to is not None else ""
        said += f", breaks from {finding.measure} {finding.breaks_at:g}{holds}"
    if finding.carried_by:
        said += f"; {', '.join(finding.carried_by)}"
    if finding.others:
        said += f"; next {', '.join(f'{name} {number(damage)}' for name, damage in finding.others[:3])}"
    return said + (f" !{','.join(finding.flags)}" if finding.flags else "")


def _entry(entry: Entry) -> str:
    rows = count(entry.rows, "row") if entry.rows else "no rows" if entry.state == "ran" else ""
    said = f"{entry.probe}: {entry.state}" + (f", {rows}" if rows else "")
    said += " on the eager twin" if entry.on == "twin" else ""
    said += f" ({entry.reason})" if entry.reason else ""
    return said + "".join(f"; {note}" for note in entry.notes)
