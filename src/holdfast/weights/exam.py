"""How good weights are on one split: per-sample scores, evaluated block by block and only as far as needed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from holdfast.core.errors import InputError, NonFiniteError
from holdfast.weights.tree import State
from holdfast.weights.trial import copy_state, with_weights

__all__ = ["Comparison", "Exam", "Sheet", "compare", "looks_quantile", "remaining_slack"]

Rule = Literal[">", ">=", "lcb"]
"""When a challenger wins: a strictly larger mean, one at least as large, or a lower confidence bound above zero."""


@dataclass(kw_only=True)
class Exam:
    """The questions of one split, the model that answers them and the direction of their scores.

    Args:
        model: any instance of the architecture; it carries each candidate's weights in turn and gets its own back.
        size: number of samples.
        measure: ``(model, indices int64 (m,)) -> Tensor (m,)``, one value a sample; the model is in eval mode.
        better: direction of the values.
        prepare: called once with every candidate's model before it is measured, such as a recalibration of BatchNorm.
        block: samples evaluated at a time; early decisions are taken between blocks. Default 256.
        name: of the metric and the split, for records.
        seed: of the order in which samples are asked; data sorted by class would bias an early decision.
        asked: samples evaluated so far, over all sheets.
    """

    model: nn.Module
    size: int
    measure: Callable[[nn.Module, Tensor], Tensor]
    better: Literal["lower", "higher"] = "higher"
    prepare: Callable[[nn.Module], object] | None = None
    block: int = 256
    name: str = "score"
    seed: int = 0
    asked: int = field(default=0, init=False)

    def sheet(self, state: State) -> Sheet:
        """A blank answer sheet for a candidate, prepared where the exam asks for it."""
        if self.size < 1:
            raise InputError("no samples to measure on", where=self.name)
        if self.prepare is None:
            return Sheet(exam=self, state=dict(state))
        with with_weights(self.model, state) as model:
            self.prepare(model)
            return Sheet(exam=self, state=copy_state(model))

    def order(self) -> Tensor:
        """The order in which the samples are asked."""
        return torch.randperm(self.size, generator=torch.Generator().manual_seed(self.seed))


@dataclass
class Sheet:
    """What one candidate scored so far.

    Args:
        exam: the exam.
        state: the candidate's weights, prepared.
        gains: float64 (n,): scores in the exam's order, signed so that higher is better.
    """

    exam: Exam
    state: dict[str, Tensor]
    gains: np.ndarray = field(default_factory=lambda: np.empty(0))

    def upto(self, count: int) -> np.ndarray:
        """The gains of the first ``count`` samples, evaluating what is missing.

        Raises:
            NonFiniteError: a score is NaN or infinite.
        """
        count = min(count, self.exam.size)
        if len(self.gains) < count:
            self.gains = np.concatenate([self.gains, self._ask(len(self.gains), count)])
        return self.gains[:count]

    def _ask(self, begin: int, end: int) -> np.ndarray:
        exam, order, found = self.exam, self.exam.order(), []
        with with_weights(exam.model, self.state) as model, torch.no_grad():
            for start in range(begin, end, exam.block):
                indices = order[start : min(start + exam.block, end)]
                found.append(exam.measure(model, indices).detach().double().cpu().numpy().reshape(len(indices)))
        exam.asked += end - begin
        values = np.concatenate(found)
        if not np.isfinite(values).all():
            raise NonFiniteError("a score is NaN or infinite", where=exam.name, fix="leave the ingredient out")
        return values if exam.better == "higher" else -values

    def mean(self) -> float:
        """The mean score over all samples, in the metric's own sign."""
        mean = float(self.upto(self.exam.size).mean())
        return mean if self.exam.better == "higher" else -mean

    def error(self) -> float:
        """The standard error of `mean`, judged by the samples asked so far; 0 for fewer than two."""
        return float(self.gains.std(ddof=1) / math.sqrt(self.exam.size)) if len(self.gains) > 1 else 0.0


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Whether a challenger beat a champion, and on what evidence.

    Args:
        accepted: the decision.
        difference: mean gain of the challenger over the champion on the samples seen; positive is better.
        error: its standard error.
        samples: samples seen of each; fewer than the exam has when the matter was clear earlier.
    """

    accepted: bool
    difference: float
    error: float
    samples: int


def compare(
    challenger: Sheet, champion: Sheet, *, rule: Rule = ">", alpha: float = 0.05, risk: float = 0.01
) -> Comparison:
    """Decide as the full split would, as soon as it is clear what the full split would say.

    After ``m`` of ``N`` samples the final mean difference lies within ``d_m +- z s_m sqrt(1/m - 1/N)`` (sampling
    without replacement); when that interval lies on one side of the threshold, the rest need not be asked. ``z`` is
    set by ``risk``, shared out over the looks (Bonferroni).

    Args:
        challenger: sheet of the candidate.
        champion: sheet, of the same exam, of what it has to beat.
        rule: ``>`` (the published code), ``>=`` (the published recipe) or ``lcb``: the challenger is better with
            one-sided confidence ``1 - alpha`` (Student's t on paired differences, normal quantile).
        alpha: level of ``lcb``. Default 0.05.
        risk: chance that an early decision differs from that on the full split; 0 asks every sample. Default 0.01.

    Raises:
        InputError: an unknown rule.
    """
    if rule not in (">", ">=", "lcb"):
        raise InputError(f"unknown rule {rule!r}", where="compare", fix="one of >, >=, lcb")
    exam = champion.exam
    looks = math.ceil(exam.size / exam.block)
    z = looks_quantile(looks, risk)
    for look in range(1, looks + 1):
        asked = min(look * exam.block, exam.size)
        gaps = challenger.upto(asked) - champion.upto(asked)
        difference, spread = float(gaps.mean()), float(gaps.std(ddof=1)) if asked > 1 else 0.0
        bar = NormalDist().inv_cdf(1.0 - alpha) * spread / math.sqrt(exam.size) if rule == "lcb" else 0.0
        slack = remaining_slack(spread, asked, exam.size, z)
        # No spread yet means no evidence yet: identical answers so far may still differ later.
        if asked == exam.size or (spread > 0 and abs(difference - bar) > slack):
            break
    accepted = difference >= bar if rule == ">=" else difference > bar
    return Comparison(accepted=accepted, difference=difference, error=spread / math.sqrt(asked), samples=asked)


def looks_quantile(looks: int, risk: float) -> float:
    """Normal quantile of a two-sided interval that holds at every one of ``looks`` looks; infinite at risk 0."""
    return NormalDist().inv_cdf(1.0 - risk / (2 * looks)) if risk > 0 else math.inf


def remaining_slack(spread: float, asked: int, size: int, z: float) -> float:
    """``z s sqrt(1/m - 1/N)``: how far the mean of all ``size`` values may still be from that of the ``asked``."""
    return z * spread * math.sqrt(1.0 / asked - 1.0 / size) if asked < size else 0.0
