"""WiSE-FT: the straight path from a pre-trained to a fine-tuned model, measured on several domains at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from holdfast.core.errors import InputError
from holdfast.weights.exam import Exam
from holdfast.weights.fisher import merge_fisher
from holdfast.weights.tree import State, lerp

__all__ = ["PathPoint", "WeightPath", "split_heads", "walk_path"]


@dataclass(frozen=True, kw_only=True)
class PathPoint:
    """One point of the path.

    Args:
        alpha: 0 is the start, 1 the end.
        scores: mean score by domain, in the metric's own sign.
        errors: their standard errors.
    """

    alpha: float
    scores: Mapping[str, float]
    errors: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class WeightPath:
    """A measured path between two models.

    Args:
        points: in the order of alpha.
        best: alpha with the best mean over domains; the first at ties.
        gain: how much better the mean over domains is there than at the better end; positive is better.
        heads: entries that were not interpolated but taken from the end.
        better: direction of each domain's scores.
        state: the weights at ``best``.
    """

    points: tuple[PathPoint, ...]
    best: float
    gain: float
    heads: tuple[str, ...]
    better: Mapping[str, str]
    state: dict[str, Tensor]

    def record(self) -> dict[str, Any]:
        """For the file's metadata."""
        table = [{"alpha": p.alpha, **{d: round(v, 6) for d, v in p.scores.items()}} for p in self.points]
        return {"average": "wise-ft", "alpha": self.best, "gain": self.gain, "heads": list(self.heads), "path": table}


def walk_path(
    start: State, end: State, domains: Mapping[str, Exam], *, alphas: Sequence[float] | None = None,
    heads: Sequence[str] = (), fishers: tuple[State, State] | None = None,
    advance: Callable[[float], None] = lambda _: None,
) -> WeightPath:  # fmt: skip
    """``theta(a) = (1 - a) theta_0 + a theta_1`` evaluated on every domain (Wortsman et al. 2022, WiSE-FT).

    With ``fishers`` the two ends are weighted by ``(1 - a) F_0`` and ``a F_1``. Alpha 0 and 1 are the ends bit for
    bit, but for heads. The path that chose alpha flatters it: report the chosen weights on other data.

    Args:
        start: the pre-trained weights; may lack a head that the end has, or have another one.
        end: the fine-tuned weights.
        domains: name -> exam, such as clean, shifted and deployed data; all directions are allowed.
        alphas: default 0, 0.1, ..., 1.
        heads: prefixes of names that are not interpolated, for a head that was new when fine-tuning began.
        fishers: diagonal Fisher values of start and end.
        advance: called with every alpha that is done.

    Raises:
        InputError: no domains or alphas, or states that differ in more than a head.
    """
    alphas = [index / 10 for index in range(11)] if alphas is None else sorted(alphas)
    if not domains or not alphas:
        raise InputError(f"{len(domains)} domains, {len(alphas)} alphas", where="WiSE-FT", fix="give at least one each")
    body, head = split_heads(start, end, heads)
    points, gains = [], []
    best: tuple[float, float, dict[str, Tensor]] | None = None
    for alpha in alphas:
        state = {**_between(body, {k: end[k] for k in body}, alpha, fishers), **head}
        sheets = {name: exam.sheet(state) for name, exam in domains.items()}
        scores = {name: sheet.mean() for name, sheet in sheets.items()}
        points.append(PathPoint(alpha=alpha, scores=scores, errors={k: s.error() for k, s in sheets.items()}))
        gains.append(float(np.mean([sheet.gains.mean() for sheet in sheets.values()])))
        if best is None or gains[-1] > best[0]:
            best = (gains[-1], alpha, next(iter(sheets.values())).state)
        advance(alpha)
    assert best is not None
    ends = [gain for alpha, gain in zip(alphas, gains, strict=True) if alpha in (0.0, 1.0)]
    return WeightPath(
        points=tuple(points), best=best[1], gain=best[0] - max(ends) if ends else float("nan"),
        heads=tuple(head), better={name: exam.better for name, exam in domains.items()},
        state={name: best[2][name] for name in end},
    )  # fmt: skip


def split_heads(start: State, end: State, heads: Sequence[str] = ()) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The entries of ``start`` to interpolate, and those of ``end`` to keep: named heads, new or reshaped entries.

    Raises:
        InputError: nothing is left to interpolate, or a prefix names nothing.
    """
    for prefix in heads:
        if not any(name.startswith(prefix) for name in end):
            raise InputError(
                f"no entry starts with {prefix!r}", where="WiSE-FT", fix=f"such as {next(iter(end), '')!r}"
            )
    kept = {
        name: tensor
        for name, tensor in end.items()
        if name.startswith(tuple(heads)) or name not in start or start[name].shape != tensor.shape
    }
    body = {name: start[name] for name in end if name not in kept}
    if not body:
        raise InputError("the two models have no entry in common", where="WiSE-FT", fix="were they fine-tuned at all?")
    return body, kept


def _between(start: State, end: State, alpha: float, fishers: tuple[State, State] | None) -> dict[str, Tensor]:
    if fishers is None or alpha in (0.0, 1.0):
        return lerp(start, end, alpha)
    common = [{name: fisher[name] for name in fisher if name in start} for fisher in fishers]
    return merge_fisher([start, end], common, [1.0 - alpha, alpha])
