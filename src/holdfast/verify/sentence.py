"""Is the input to blame or the arithmetic? The answer in one sentence."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.deploy.parity import Finding
from holdfast.verify.measure import Compared

__all__ = ["amount", "attribution", "fp16_range"]

CLEAR = 2.0
"""A factor that moves the outputs more than twice as far as the other is the one to look at."""

FP32_SUMS, FP16_SUMS = "emulated:fp16", "emulated:fp16_accumulate"


def attribution(compared: Sequence[Compared]) -> str:
    """Which factor moves the outputs further, by the task's first drift over samples.

    The worst pipeline under the reference subject stands for the input, the worst subject under the reference's own
    pipeline for the arithmetic.
    """
    arithmetic, source = _worst(compared, "arithmetic"), _worst(compared, "input")
    if arithmetic is None:
        return "The arithmetic was not compared: the task declares no drift, or only one subject was given."
    part, moved = arithmetic
    said = f"The arithmetic of {part.subject} moves {moved.name} by {amount(moved)}"
    said += ", which is below the noise floor" if moved.below_floor else ""
    if source is None:
        return f"{said}; with one pipeline nothing is known of the input."
    pipeline, shifted = source[0].pipeline, source[1]
    return f"{said}, the input under {pipeline} by {amount(shifted)}{_blame(moved, shifted)}."


def fp16_range(compared: Sequence[Compared]) -> str:
    """What to expect of an fp16 engine, whose kernels may keep sums in fp32 or in fp16: the task's first drift.

    Empty unless both were emulated.
    """
    moved = {
        part.subject: finding
        for part in reversed(compared)  # the first split and pipeline win
        if part.factor == "arithmetic" and part.subject in (FP32_SUMS, FP16_SUMS)
        for finding in [next((f for f in part.findings if f.kind == "displacement"), None)]
        if finding is not None
    }
    if len(moved) < 2:
        return ""
    exact, rounded = amount(moved[FP32_SUMS]), amount(moved[FP16_SUMS])
    name = moved[FP32_SUMS].name
    return f"Emulated, fp16 moves {name} by {exact} with sums in fp32 and by {rounded} with sums in fp16."


def _worst(compared: Sequence[Compared], factor: str) -> tuple[Compared, Finding] | None:
    candidates = [
        (part, finding)
        for part in compared
        if part.factor == factor
        for finding in [next((f for f in part.findings if f.kind == "displacement"), None)]
        if finding is not None
    ]
    # Splits are compared in order, and another split's first drift may have another unit.
    same = [(part, finding) for part, finding in candidates if finding.name == candidates[0][1].name]
    return max(same, key=lambda pair: pair[1].interval.estimate, default=None)


def _blame(arithmetic: Finding, source: Finding) -> str:
    small, large = sorted((arithmetic.interval.estimate, source.interval.estimate))
    if large == 0:
        return ": nothing moves"
    ratio = f"{large / small:.3g} to 1" if small > 0 else "all to nothing"
    if small * CLEAR > large:
        return f" ({ratio}): both matter"
    return f" ({ratio}): {'the input' if source.interval.estimate == large else 'the arithmetic'} is to blame"


def amount(finding: Finding) -> str:
    """A mean with its unit."""
    unit = "" if finding.unit == "1" else f" {finding.unit}"
    return f"{finding.interval.estimate:.3g}{unit}"
