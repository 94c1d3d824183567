"""``holdfast explain-drift``: why the vehicle's network input is not the one of training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.core.errors import InputError
from holdfast.core.plain import plain

if TYPE_CHECKING:
    import numpy as np

    from holdfast.explain_drift.domain import Domain
    from holdfast.explain_drift.explain import Explanation, Finding

__all__ = ["explain_drift"]

INCONCLUSIVE = 3


def explain_drift(
    training: Annotated[
        Path, typer.Argument(help="Recorded network input of training: npy, npz, a picture, a folder.")
    ],
    vehicle: Annotated[Path | None, typer.Argument(help="The same frames as recorded on the vehicle.")] = None,
    raw: Annotated[Path | None, typer.Option(help="The camera frame of both: names the resize kernels.")] = None,
    crop: Annotated[str, typer.Option(help="Part of the raw frame that the network sees: top,left,height,width.")] = "",
    domain: Annotated[
        str, typer.Option(help="Normalisation of the training side, e.g. imagenet; default: guessed.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a pair instead of text.")] = False,
) -> int:
    """Name the pipeline differences that turn one recorded tensor into the other, with the share of each.

    Exit code: 0 all pairs are explained or equal, 3 some are not.
    """
    from holdfast.explain_drift.explain import explain
    from holdfast.explain_drift.recordings import read_pairs

    frame, known = _frame(raw, crop), _domain(domain)
    code = 0
    for name, a, b in read_pairs(training, vehicle):
        told = explain(a, b, domain=known, raw=frame)
        if as_json:
            print(json.dumps({"pair": name, **plain(told)}, allow_nan=False))
        else:
            print("\n".join(_lines(name, told)))
        if not told.findings and told.difference > 0:
            code = INCONCLUSIVE
    return code


def _domain(name: str) -> Domain | None:
    from holdfast.explain_drift.domain import DOMAINS

    known = {domain.name: domain for domain in DOMAINS}
    if name and name not in known:
        raise InputError(f"no normalisation {name!r}", where="--domain", fix=f"one of {', '.join(known)}")
    return known[name] if name else None


def _frame(path: Path | None, crop: str) -> np.ndarray | None:
    from holdfast.explain_drift.recordings import read_array

    if path is None:
        if crop:
            raise InputError("cuts the raw frame, and there is none", where="--crop", fix="give --raw too")
        return None
    frame = read_array(path)
    if not crop:
        return frame
    try:
        top, left, height, width = (int(part) for part in crop.split(","))
    except ValueError:
        raise InputError(f"{crop!r} is not top,left,height,width", where="--crop", fix="as in 120,0,600,1280") from None
    if min(top, left) < 0 or min(height, width) < 8 or top + height > frame.shape[0] or left + width > frame.shape[1]:
        raise InputError(f"{crop} leaves the frame of {frame.shape[0]} x {frame.shape[1]}", where="--crop")
    return frame[top : top + height, left : left + width]


def _lines(name: str, told: Explanation) -> list[str]:
    """The explanation of a pair as text."""
    lines = [f"== {name}"] if name else []
    lines.append(f"mean difference {told.difference:.3g} grey levels (training side taken as {told.domain})")
    if not told.same_frame:
        lines.append("the two do not look like the same frame: their detail does not correlate")
    if not told.findings:
        lines.append("equal" if told.difference == 0 else "none of the known causes explains it")
        return lines
    lines += _table(told.findings)
    lines.append(f"{'remains':<17} {100 * told.remaining:6.1f} %")
    for finding in told.findings:
        if finding.alike:
            lines.append(f"cannot be told apart from {finding.name} on these data: {'; '.join(finding.alike)}")
        if finding.hides:
            lines.append(f"beside {finding.name} could not be seen: {', '.join(finding.hides)}")
    return lines + list(told.notes)


def _table(findings: Sequence[Finding]) -> list[str]:
    lines = [f"{'class':<17} {'share':>8} {'sure':>5}  cause"]
    for finding in findings:
        share = "certain" if finding.share is None else f"{100 * finding.share:.1f} %"
        lines.append(f"{finding.family:<17} {share:>8} {100 * finding.confidence:>4.0f}%  {finding.detail}")
    return lines
