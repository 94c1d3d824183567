"""Gates: promises checked on the ``report`` split, ending in PASS, FAIL or INCONCLUSIVE with what would decide."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from holdfast.core.config import Gate, Study
from holdfast.core.flags import VOIDING
from holdfast.core.rows import Row
from holdfast.select.evidence import Evidence, Pair, Samples, UndecidableError, across_seeds, other_side, within_one_run
from holdfast.select.power import Outcome, decide, units_to_decide
from holdfast.select.stats import Interval
from holdfast.select.table import Candidate, Table
from holdfast.select.verdict import Verdict
from holdfast.select.wording import amount, count, roughly, told_apart

__all__ = ["GateResult", "check_gates", "exit_code"]

ACROSS_SEEDS = 3
"""From this many seeds on the seed is the unit of replication; with fewer a gate speaks of the runs it saw."""


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """What a gate found; numbers are NaN where there was nothing to look at.

    Args:
        gate: the gate.
        candidate: which recipe and weights were checked.
        outcome: ``PASS``, ``FAIL`` or ``INCONCLUSIVE``.
        reason: one sentence: estimate, bound, what was repeated, and what would decide.
        interval: the quantity (value, ratio or difference) with the interval that decides, at ``1 - 2 alpha``.
        unit: unit of the interval; ``×`` for a ratio.
        samples: samples behind each estimate.
        groups: independent groups among them.
        seeds: seeds looked at.
        needed: ``"about 9 seeds"`` or ``"about 120 groups"`` that would decide; empty when decided or when none would.
        executed: precisions that really executed.
        flags: flags of the rows.
    """

    gate: Gate
    candidate: Candidate | None
    outcome: Outcome
    reason: str
    interval: Interval | None = None
    unit: str = ""
    samples: int = 0
    groups: int = 0
    seeds: int = 0
    needed: str = ""
    executed: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()


def check_gates(study: Study, rows: Iterable[Row], verdict: Verdict, samples: Samples) -> tuple[GateResult, ...]:
    """Check every gate of a study on ``report``.

    With three seeds or more the seed is the unit of replication. With fewer, each run is judged by its own groups of
    samples and the worst run decides: the result then speaks of these runs, not of the recipe.

    Args:
        study: the gates.
        rows: rows of the study's current cells.
        verdict: names the recommended recipe.
        samples: per-sample values of a row, e.g. `holdfast.core.store.RunFolder.samples`.
    """
    table = Table(rows)
    return tuple(_check(gate, table, _candidate(gate, verdict), samples) for gate in study.gates)


def exit_code(results: Iterable[GateResult]) -> int:
    """0 when every gate passed, 1 when one failed, else 3."""
    outcomes = {result.outcome for result in results}
    if "FAIL" in outcomes:
        return 1
    return 3 if "INCONCLUSIVE" in outcomes else 0


# --- one gate -------------------------------------------------------------------------------------------


def _candidate(gate: Gate, verdict: Verdict) -> Candidate | None:
    if gate.recipe != "recommended":
        return Candidate(gate.recipe, gate.weights or "last")
    chosen = verdict.recommended
    return replace(chosen, weights=gate.weights or chosen.weights) if chosen else None


def _check(gate: Gate, table: Table, candidate: Candidate | None, samples: Samples) -> GateResult:
    if candidate is None:
        return _undecided(gate, None, "no recipe is recommended")
    pairs = _pairs(gate, table, candidate)
    if isinstance(pairs, str):
        return _undecided(gate, candidate, pairs)
    try:
        evidence = _evidence(gate, pairs, samples)
    except UndecidableError as error:
        return _undecided(gate, candidate, error.what)
    return _judged(gate, candidate, pairs, evidence)


def _undecided(gate: Gate, candidate: Candidate | None, reason: str) -> GateResult:
    return GateResult(gate=gate, candidate=candidate, outcome="INCONCLUSIVE", reason=f"Not measured: {reason}.")


def _pairs(gate: Gate, table: Table, candidate: Candidate) -> list[Pair] | str:
    """Rows by seed with the rows they are compared with, or why there are none."""
    sides = [gate] if (other := other_side(gate)) is None else [gate, other]
    found = [table.collect(side, candidate=candidate, split="report") for side in sides]
    for side, rows in zip(sides, found, strict=True):
        if not rows:
            return table.instead_of(side, candidate=candidate, split="report")
    seeds = [s for s in found[0] if all(s in rows and math.isfinite(rows[s].value) for rows in found)]
    if not seeds:
        return "no seed has finite values on both sides" if other else "no seed has a finite value"
    return [(found[0][s], found[1][s] if other else None) for s in seeds]


def _evidence(gate: Gate, pairs: Sequence[Pair], samples: Samples) -> Evidence:
    if len(pairs) >= ACROSS_SEEDS:
        return across_seeds(gate, list(pairs))
    runs = [within_one_run(gate, pair, samples) for pair in pairs]
    return max(runs, key=lambda run: _threat(run.interval, *_band(gate)))


def _threat(interval: Interval, low: float, high: float) -> tuple[int, float]:
    """Orders runs from the safest to the one nearest to breaking the promise."""
    rank = {"PASS": 0, "INCONCLUSIVE": 1, "FAIL": 2}[decide(interval, low, high)]
    return rank, max(interval.high - high, low - interval.low)


def _band(gate: Gate) -> tuple[float, float]:
    """Where the quantity must lie; of a ratio its logarithm."""
    if gate.margin is not None:
        return -gate.margin, gate.margin
    low, high = (-math.inf, gate.max) if gate.max is not None else (gate.min, math.inf)
    assert low is not None
    assert high is not None
    return (_log(low), _log(high)) if gate.relative_to else (low, high)


def _log(ratio: float) -> float:
    return math.log(ratio) if ratio > 0 else -math.inf


def _judged(gate: Gate, candidate: Candidate, pairs: Sequence[Pair], evidence: Evidence) -> GateResult:
    low, high = _band(gate)
    rows = [row for pair in pairs for row in pair if row is not None]
    outcome, needed = decide(evidence.interval, low, high), ""
    if outcome == "INCONCLUSIVE" and (n := units_to_decide(evidence.interval, low, high)):
        needed = roughly(n, evidence.noun)
    result = GateResult(
        gate=gate, candidate=candidate, outcome=outcome, reason="", needed=needed,
        interval=_as_ratio(evidence.interval) if gate.relative_to else evidence.interval,
        unit="×" if gate.relative_to else rows[0].unit, flags=tuple(sorted({f for row in rows for f in row.flags})),
        samples=min(row.n for row in rows), groups=min(row.groups for row in rows), seeds=len(pairs),
        executed=tuple(dict.fromkeys(row.executed for row in rows)),
    )  # fmt: skip
    return _without_doubt(replace(result, reason=_reason(result, evidence.noun)))


def _without_doubt(result: GateResult) -> GateResult:
    """A pass on rows that may look better than they are is no pass."""
    voiding = sorted(VOIDING & set(result.flags))
    if result.outcome != "PASS" or not voiding:
        return result
    doubt = f"{result.reason} It would pass, but the rows are flagged {', '.join(voiding)}."
    return replace(result, outcome="INCONCLUSIVE", reason=doubt)


def _as_ratio(interval: Interval) -> Interval:
    low, high = (math.exp(end) if end < 700 else math.inf for end in (interval.low, interval.high))
    return replace(interval, estimate=math.exp(interval.estimate), low=low, high=high)


def _reason(result: GateResult, noun: str) -> str:
    """Estimate, the bound or interval that decides, the limit, what was repeated, and what would decide."""
    gate, interval, unit = result.gate, result.interval, result.unit
    assert interval is not None, "a judged gate has an interval"
    scope = f"over {count(result.seeds, 'seed')}" if noun == "seed" else _for_runs(result.seeds, interval)
    tail = f"; {result.needed} would decide" if result.needed else ""
    if gate.margin is not None:
        level, ends = 100 * (1 - 2 * gate.alpha), f"{amount(interval.low, unit)} to {amount(interval.high, unit)}"
        found = f"difference {amount(interval.estimate, unit)}, {level:g} % interval {ends}"
        return f"{found}, margin ±{amount(gate.margin, unit)}, {scope}{tail}."
    limit = gate.max if gate.max is not None else gate.min
    assert limit is not None, "a gate has a limit or a margin"
    # A promise is kept by the far end of the interval and broken by the near one.
    upper = (gate.max is not None) != (result.outcome == "FAIL")
    side, bound = ("upper", interval.high) if upper else ("lower", interval.low)
    found = f"{'ratio' if gate.relative_to else 'mean'} {amount(interval.estimate, unit)}"
    bound_text, limit_text = told_apart(bound, limit, unit)
    return f"{found}, {100 * (1 - gate.alpha):g} % {side} bound {bound_text}, limit {limit_text}, {scope}{tail}."


def _for_runs(seeds: int, interval: Interval) -> str:
    runs = "for this run" if seeds == 1 else f"for these {seeds} runs (the worse one is shown)"
    return f"{runs}, {interval.method}"
