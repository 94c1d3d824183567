"""Greedy soups: ingredients are added, best first, as long as the average gets better; every decision has a reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import Tensor

from holdfast.core.errors import InputError
from holdfast.weights.barrier import Barrier, measure_barrier
from holdfast.weights.exam import Comparison, Exam, Rule, Sheet, compare
from holdfast.weights.tree import State, lerp

__all__ = ["GreedyRules", "GreedySoup", "Ingredient", "Trial", "greedy_soup"]


@dataclass(frozen=True, kw_only=True)
class Ingredient:
    """Weights that may go into a soup.

    Args:
        label: shown in records, usually the file name.
        load: gives the state dict; called when it is needed, so that not all ingredients stand in memory.
        score: mean score on the exam where it is known from before; saves one evaluation.
    """

    label: str
    load: Callable[[], State]
    score: float | None = None


@dataclass(frozen=True, kw_only=True)
class GreedyRules:
    """How a greedy soup decides.

    Args:
        accept: ``>`` the published code, ``>=`` the published recipe, ``lcb`` a gain beyond the noise. Default ``>``.
        alpha: level of ``lcb``. Default 0.05.
        risk: chance that an early decision differs from that on the whole split; 0 switches it off. Default 0.01.
        barrier: what happens to ingredients that share no basin with the best: ``refuse`` (default), ``flag``, or
            ``off``: no check.
    """

    accept: Rule = ">"
    alpha: float = 0.05
    risk: float = 0.01
    barrier: Literal["refuse", "flag", "off"] = "refuse"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What happened to one ingredient.

    Args:
        label: the ingredient.
        score: its own mean score.
        accepted: whether it went in.
        reason: one sentence.
        comparison: the soup with it against the soup without; None for the first and for those behind a barrier.
        barrier: on the linear path to the best ingredient; None when it was not looked for.
    """

    label: str
    score: float
    accepted: bool
    reason: str
    comparison: Comparison | None = None
    barrier: Barrier | None = None


@dataclass(frozen=True, kw_only=True)
class GreedySoup:
    """A greedy soup and how it came about.

    Args:
        state: the weights, prepared as the exam prepares them.
        members: labels of the ingredients, in the order in which they went in.
        trials: one an ingredient, in the order in which they were tried.
        evaluations: evaluations of the whole split that were spent, barriers included.
        explanation: why nothing but the best ingredient was kept; empty otherwise.
    """

    state: dict[str, Tensor]
    members: tuple[str, ...]
    trials: tuple[Trial, ...]
    evaluations: float
    explanation: str

    def record(self) -> dict[str, Any]:
        """For the file's metadata."""
        return {
            "average": "greedy soup",
            "members": list(self.members),
            "trials": [asdict(trial) for trial in self.trials],
            "evaluations": round(self.evaluations, 2),
            "explanation": self.explanation,
        }


def greedy_soup(
    ingredients: Sequence[Ingredient], exam: Exam, *, rules: GreedyRules | None = None, loss: Exam | None = None,
    advance: Callable[[str], None] = lambda _: None,
) -> GreedySoup:  # fmt: skip
    """Add ingredients in descending order of their own score, keeping each one that improves the average.

    ``S = {best}``; for each next ``k``: keep it iff ``score(mean(S + {k}))`` beats ``score(mean(S))``. One pass,
    nothing is removed again. Wortsman et al. 2022 (model soups), recipe 1. Ties in the order go by position. The
    score that chose is biased upwards: report the soup on another split.

    Args:
        ingredients: at least one.
        exam: on the split that selects; with BatchNorm, its ``prepare`` should recalibrate.
        rules: how to decide; default `GreedyRules`.
        loss: exam for the barrier check, preferably of per-sample losses. Default: ``exam``.
        advance: called with the label of every ingredient that is done.

    Raises:
        InputError: no ingredients, or weights that do not fit each other.
        NonFiniteError: an ingredient scores NaN.
    """
    if not ingredients:
        raise InputError("no ingredients", where="greedy soup", fix="name at least one file")
    before = exam.asked, loss.asked if loss is not None else 0
    ((best, best_score), *others), sheet = _rank(ingredients, exam)
    pot = _Pot(rules or GreedyRules(), sheet or exam.sheet(best.load()), loss or exam)
    trials = [Trial(label=best.label, score=best_score, accepted=True, reason="the best by itself")]
    advance(best.label)
    for candidate, score in others:
        trials.append(pot.add(candidate.label, score, candidate.load()))
        advance(candidate.label)
    spent = (exam.asked - before[0]) / exam.size
    if loss is not None:
        spent += (loss.asked - before[1]) / loss.size
    kept = tuple(trial.label for trial in trials if trial.accepted)
    explanation = _why_alone(trials, pot.champion.error()) if len(kept) == 1 < len(trials) else ""
    return GreedySoup(
        state=pot.champion.state, members=kept, trials=tuple(trials), evaluations=spent, explanation=explanation
    )


def _rank(ingredients: Sequence[Ingredient], exam: Exam) -> tuple[list[tuple[Ingredient, float]], Sheet | None]:
    """The ingredients with their scores, best first, and the sheet of the best where it was measured here."""
    sign = 1.0 if exam.better == "higher" else -1.0
    scores: list[float] = []
    best: Sheet | None = None
    for one in ingredients:
        sheet = exam.sheet(one.load()) if one.score is None else None
        score = sheet.mean() if sheet is not None else one.score
        assert score is not None
        if not scores or sign * score > sign * max(scores, key=lambda other: sign * other):
            best = sheet
        scores.append(score)
    order = sorted(range(len(ingredients)), key=lambda k: -sign * scores[k])
    return [(ingredients[k], scores[k]) for k in order], best


class _Pot:
    """The soup so far: its plain mean, its prepared and measured form, and the sheet of the best ingredient."""

    def __init__(self, rules: GreedyRules, best: Sheet, loss: Exam) -> None:
        self._rules = rules
        self._mean: State = best.state
        self._members = 1
        self.champion = best
        self._best = best if best.exam is loss else loss.sheet(best.state)

    def add(self, label: str, score: float, state: State) -> Trial:
        """Try an ingredient, and keep it when it helps."""
        barrier = None if self._rules.barrier == "off" else measure_barrier(self._best, self._best.exam.sheet(state))
        if barrier is not None and barrier.verdict == "blocked" and self._rules.barrier == "refuse":
            reason = f"another basin: halfway to the best it gets worse by {barrier.height:.3g}"
            return Trial(label=label, score=score, accepted=False, reason=reason, barrier=barrier)
        mean = lerp(self._mean, state, 1.0 / (self._members + 1))
        challenger = self.champion.exam.sheet(mean)
        rules = self._rules
        result = compare(challenger, self.champion, rule=rules.accept, alpha=rules.alpha, risk=rules.risk)
        if result.accepted:
            self._mean, self._members, self.champion = mean, self._members + 1, challenger
        reason = _reason(result, challenger.exam.size, rules.accept)
        return Trial(
            label=label, score=score, accepted=result.accepted, reason=reason, comparison=result, barrier=barrier
        )


def _reason(result: Comparison, size: int, rule: Rule) -> str:
    seen = f"{result.samples} of {size} samples"
    gain = f"{result.difference:+.3g} +- {result.error:.2g} on {seen}"
    if result.accepted:
        return f"the soup gains {gain}"
    if result.difference < -2 * result.error:
        return f"the soup loses: {gain}"
    if rule == "lcb" and result.difference > 0:
        return f"the gain is within the noise: {gain}"
    return f"the soup does not gain: {gain}"


def _why_alone(trials: Sequence[Trial], error: float) -> str:
    best, *others = trials
    behind = [trial for trial in others if trial.comparison is None]
    weaker = [t for t in others if t.comparison is not None and abs(t.score - best.score) > 3 * error]
    close = len(others) - len(behind) - len(weaker)
    parts = [f"kept only {best.label}; of {len(others)} others"]
    if behind:
        parts.append(f"{len(behind)} lie behind a barrier: they were not fine-tuned from one start, or too far")
    if weaker:
        parts.append(
            f"{len(weaker)} are by themselves worse than the best by more than three standard errors: the sweep is "
            "too wide, keep ingredients close to the best"
        )
    if close:
        parts.append(f"{close} are as good as the best but add nothing beyond the noise: more samples would tell")
    return "; ".join(parts)
