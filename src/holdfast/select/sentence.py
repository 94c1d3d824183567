"""A verdict in plain English: no word stronger than the number of seeds allows."""

from __future__ import annotations

from collections.abc import Iterator

from holdfast.select.compare import WINNER_SEEDS, Comparison, paired_over_seeds
from holdfast.select.pareto import to_minimise
from holdfast.select.stats import Interval
from holdfast.select.table import Candidate
from holdfast.select.verdict import Axis, Standing, Verdict
from holdfast.select.wording import amount, change, count, p_value, roughly, span

__all__ = ["headline", "remarks"]


def headline(verdict: Verdict) -> str:
    """The outcome in one or two sentences."""
    chosen, primary = verdict.of(verdict.recommended), verdict.primary
    if chosen is None:
        return "Nothing to select: no recipe has rows."
    axis, score = verdict.axes[primary], chosen.select[primary]
    assert score is not None, "a standing has values on the primary objective"
    value = f"{axis.label} {amount(score.estimate, axis.unit)} ({_trust(score, axis.unit)})"
    if len(verdict.standings) == 1:
        return f"{chosen.candidate.name}: {value}. There is nothing to compare it with."
    if verdict.baseline is None:
        return f"{_these(score.n)} {chosen.candidate.name} is best: {value}. The baseline has no rows to compare with."
    if chosen.candidate == verdict.baseline:
        return _baseline_stays(verdict, chosen, value, score.n)
    comparison = chosen.comparison
    if comparison is None:
        return f"{_these(score.n)} {chosen.candidate.name} is best: {value}. It shares no seed with the baseline."
    return _compared(comparison, axis, _values(verdict, chosen, primary))


def remarks(verdict: Verdict) -> list[str]:
    """What belongs beside the headline: the split that did not choose, the price, the runner-up, what is missing."""
    return [*_confirmed(verdict), *_price(verdict), *_runner_up(verdict), *_absent(verdict)]


# --- headline -------------------------------------------------------------------------------------------


def _these(seeds: int) -> str:
    return "For this run" if seeds == 1 else "For these runs"


def _trust(score: Interval, unit: str) -> str:
    if score.n == 1:
        return "one seed"
    if score.n == 2:
        return "two seeds"
    return f"95 % interval {span(score, unit)} over {count(score.n, 'seed')}"


def _values(verdict: Verdict, standing: Standing, index: int) -> str:
    """``0.460 m against 0.562 m (−18 %)``: means over the seeds of each side."""
    reference = verdict.of(verdict.baseline)
    ours, theirs = standing.select[index], reference.select[index] if reference else None
    assert ours is not None
    assert theirs is not None
    return _against(ours.estimate, theirs.estimate, verdict.axes[index].unit)


def _against(ours: float, theirs: float, unit: str) -> str:
    relative = change(ours, theirs)
    return f"{amount(ours, unit)} against {amount(theirs, unit)}" + (f" ({relative})" if relative else "")


def _baseline_stays(verdict: Verdict, chosen: Standing, value: str, seeds: int) -> str:
    others = [s.comparison for s in verdict.standings if s.comparison is not None]
    if others and all(c.finding == "worse" for c in others):
        return f"No recipe beats {chosen.candidate.name}, and each of the others is worse: {value}."
    return f"{_these(seeds)} no recipe does better than {chosen.candidate.name}: {value}."


def _compared(comparison: Comparison, axis: Axis, values: str) -> str:
    ours, theirs = comparison.candidate.name, comparison.against.name
    if comparison.finding == "better":
        return f"{ours} beats {theirs} on {axis.label}: {values}; {_tested(comparison, axis)}."
    if comparison.finding == "not separated":
        return (
            f"The data do not separate {ours} from {theirs} on {axis.label}: {values}; {_tested(comparison, axis)}. "
            f"{_needed(comparison)}"
        )
    start = f"{_these(comparison.seeds)} {ours} is ahead of {theirs} on {axis.label}: {values}"
    if comparison.finding == "shown":
        few = "One seed is" if comparison.seeds == 1 else "Two seeds are"
        return f"{start}. {few} shown, not tested; a winner takes at least {WINNER_SEEDS}."
    agreed = f", in {comparison.paired.agree} of {count(comparison.seeds, 'seed')}"
    if comparison.seeds >= WINNER_SEEDS:
        return f"{start}{agreed}; the seeds differ by exactly the same amount, so nothing can be tested."
    return f"{start}{agreed}. That is a direction, not a winner. {_needed(comparison)}"


def _tested(comparison: Comparison, axis: Axis) -> str:
    interval = comparison.paired.interval
    family = f" after Holm over {count(comparison.family, 'comparison')}" if comparison.family > 1 else ""
    return (
        f"difference {amount(interval.estimate, axis.unit)}, 95 % interval {span(interval, axis.unit)} "
        f"over {count(interval.n, 'paired seed')}, {p_value(comparison.p_adjusted)}{family}"
    )


def _needed(comparison: Comparison) -> str:
    if comparison.needed is None:
        return "No number of seeds would show a difference like this one."
    seeds = roughly(comparison.needed, "seed").capitalize()
    return f"{seeds} would separate a difference like this one (power 0.8)."


# --- remarks --------------------------------------------------------------------------------------------


def _confirmed(verdict: Verdict) -> Iterator[str]:
    chosen, baseline = verdict.of(verdict.recommended), verdict.of(verdict.baseline)
    if chosen is None or (score := chosen.report[verdict.primary]) is None:
        return
    axis, comparison = verdict.axes[verdict.primary], verdict.confirmation
    reference = baseline.report[verdict.primary] if baseline else None
    start = f"On the report split, which did not choose it, {axis.label} is"
    if comparison is None or reference is None:
        yield f"{start} {amount(score.estimate, axis.unit)} ({_trust(score, axis.unit)})."
        return
    text = f"{start} {_against(score.estimate, reference.estimate, axis.unit)}"
    if comparison.finding in {"better", "worse", "not separated"}:
        text += f"; {_tested(comparison, axis)}"
    if to_minimise(comparison.paired.estimate, axis.better) >= 0:
        text += "; the lead did not carry over"
    yield text + "."


def _price(verdict: Verdict) -> Iterator[str]:
    """The other objectives on which the recommended candidate is worse than the baseline."""
    chosen, baseline = verdict.of(verdict.recommended), verdict.of(verdict.baseline)
    if chosen is None or baseline is None or chosen is baseline:
        return
    costs = []
    for i, axis in enumerate(verdict.axes):
        ours, theirs = chosen.select[i], baseline.select[i]
        if i == verdict.primary or axis.better == "neither" or ours is None or theirs is None:
            continue
        loss = to_minimise(ours.estimate, axis.better) - to_minimise(theirs.estimate, axis.better)
        if loss > 0.005 * abs(theirs.estimate):  # less would be printed as 0 %
            costs.append(f"{axis.label} {_against(ours.estimate, theirs.estimate, axis.unit)}")
    if costs:
        yield f"It costs: {'; '.join(costs)}."


def _runner_up(verdict: Verdict) -> Iterator[str]:
    """The next best candidate other than the baseline, when the data do not tell it from the recommended one."""
    chosen, primary = verdict.of(verdict.recommended), verdict.primary
    rivals = [s for s in verdict.standings if s is not chosen and s.candidate != verdict.baseline]
    if chosen is None or not rivals:
        return
    axis = verdict.axes[primary]
    rival = min(rivals, key=lambda s: to_minimise(_estimate(s, primary), axis.better))
    text = f"Next is {rival.candidate.name} with {amount(_estimate(rival, primary), axis.unit)}"
    if chosen.by_seed[primary].keys() & rival.by_seed[primary].keys():
        paired = paired_over_seeds(chosen.by_seed[primary], rival.by_seed[primary])
        if paired.interval.n >= WINNER_SEEDS and not paired.p < verdict.alpha:
            text += f"; the data do not separate it from {chosen.candidate.name} ({p_value(paired.p)})"
    yield text + "."


def _estimate(standing: Standing, index: int) -> float:
    score = standing.select[index]
    assert score is not None, "a standing has values on the primary objective"
    return score.estimate


def _absent(verdict: Verdict) -> Iterator[str]:
    if verdict.missing:
        yield f"No rows, failed or unfinished: {_names(verdict.missing)}."
    short = [s for s in verdict.standings if len(s.by_seed[verdict.primary]) < verdict.seeds]
    if short:
        counts = (f"{s.candidate.name} ({len(s.by_seed[verdict.primary])} of {verdict.seeds})" for s in short)
        yield f"Fewer seeds than asked for: {', '.join(counts)}."


def _names(candidates: tuple[Candidate, ...]) -> str:
    return ", ".join(c.name for c in candidates)
