"""Explain-drift: which differences of two pipelines turn one recorded network input into the other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor
from torch.nn import functional

from holdfast.explain_drift.cause import Cause, block_means
from holdfast.explain_drift.causes.displacement import Displacement
from holdfast.explain_drift.causes.rounding import Rounding
from holdfast.explain_drift.causes.storage import Storage
from holdfast.explain_drift.domain import Domain
from holdfast.explain_drift.evidence import Evidence
from holdfast.explain_drift.raw import name_kernels
from holdfast.explain_drift.search import Hypothesis, Search
from holdfast.explain_drift.structure import Fact, Structure, examine
from holdfast.explain_drift.tensors import Recorded
from holdfast.explain_drift.tiles import MARGIN, cut_tiles, whole_picture

__all__ = ["Explanation", "Finding", "confidence", "explain"]

DEPTH = 3
TIE_NATS = 0.1
AGREEMENT = 0.3
EVEN_LEVELS, EVEN_SHARE = 1.5, 0.3
UNEVEN = "what is left differs from place to place, as with other light, another moment, a rotation: no cause is named"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A cause of the difference.

    Args:
        family: class of the cause, e.g. ``"colour_matrix"``; the class is what the test of this tool is about.
        name: member of the class that fits best.
        detail: the cause in words, with parameters and units.
        share: what it explains of the mean absolute difference: its Shapley value over the causes found. None for
            what stands in the arrays themselves, such as the memory layout.
        margin: by how many nats the best explanation without this family is worse; infinite where it is certain.
        confidence: the same as a probability, see `confidence`.
        alike: other causes that explain the pair as well; on these data they form one class.
        hides: families that could not be seen beside this cause.
    """

    family: str
    name: str
    detail: str
    share: float | None
    margin: float
    confidence: float
    alike: tuple[str, ...] = ()
    hides: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What turns the training side's tensor into the vehicle's; no findings means "none of these".

    Args:
        findings: causes: certain ones first, then by share.
        domain: normalisation in which the training side was taken to be.
        difference: mean absolute difference in grey levels of the training side, displacement undone nowhere.
        remaining: share of it that the findings leave.
        same_frame: whether the two look like one frame at all.
        notes: what else was seen.
    """

    findings: tuple[Finding, ...]
    domain: str
    difference: float
    remaining: float
    same_frame: bool = True
    notes: tuple[str, ...] = ()


def explain(
    training: np.ndarray, vehicle: np.ndarray, *, domain: Domain | None = None, raw: np.ndarray | None = None
) -> Explanation:
    """Name the causes that turn the training side's network input into the vehicle's.

    A beam search over sets of up to three causes of the catalogue, each fitted to what the others leave; a
    hypothesis is worth ``-sum over bands of log(mean |error|) - cost of its causes`` (see `Evidence`).

    Args:
        training: the frame as it entered the network in training: (C, H, W), (H, W, C) or (H, W), any number
            format, 1 or 3 channels.
        vehicle: the same frame as it entered the network on the vehicle.
        domain: normalisation of the training side. Default: guessed from the values.
        raw: the camera frame that both were resized from, uint8 (H, W, 3), cropped to what the network sees. Two
            network inputs seldom tell resize kernels apart; with the frame both sides' kernels are named.

    Raises:
        InputError: not two pictures of one size, or a raw frame that is not theirs.
    """
    structure = examine(Recorded.of(training, where="training side"), Recorded.of(vehicle, where="vehicle"), domain)
    search = _search(structure)
    judged = search.run(DEPTH)
    best = judged[0]
    same_frame = search.evidence.agreement(search.predicted(best.causes)) > AGREEMENT
    notes: tuple[str, ...] = () if not same_frame or _even(search, best) else (UNEVEN,)
    if not same_frame or notes:
        best = search.judge([cause for cause in best.causes if isinstance(cause, Storage)])
    elif raw is not None:
        best, note = name_kernels(structure, search, best, _frame(raw, structure))
        notes = (note,)
    difference, shares, remaining = _shares(structure, search, best.causes)
    found = [_finding(cause, share, best, judged) for cause, share in zip(best.causes, shares, strict=True)]
    return Explanation(
        findings=(*map(_certain, _facts(structure, search, best)), *sorted(found, key=lambda f: -(f.share or 0.0))),
        domain=structure.domain.detail, difference=difference, remaining=remaining, same_frame=same_frame,
        notes=notes,
    )  # fmt: skip


def _even(search: Search, best: Hypothesis) -> bool:
    """Whether the best explanation holds all over the picture: what it leaves averages out in blocks of 8 x 8.

    Every cause of the catalogue acts everywhere alike, apart from detail. Light, rotation and another moment do not.
    """
    without, left = (
        float(block_means(search.evidence.error(search.predicted(causes)).mean(1, keepdim=True)).abs().mean())
        for causes in ([cause for cause in best.causes if isinstance(cause, Storage)], best.causes)
    )
    return left < EVEN_LEVELS or left < EVEN_SHARE * without


def _frame(raw: np.ndarray, structure: Structure) -> Tensor:
    """The raw frame in grey levels, its channels in the order of the training side."""
    planes = Recorded.of(raw, where="raw frame").planes.float()
    small = functional.adaptive_avg_pool2d(planes, (structure.before.shape[-2], structure.before.shape[-1]))
    gaps = [float((small.flip(0) if swap else small).sub(structure.before).abs().mean()) for swap in (False, True)]
    return planes.flip(0) if gaps[1] < gaps[0] else planes


def _search(structure: Structure) -> Search:
    before, observed = cut_tiles(structure.before, structure.observed, structure.aligned)
    margin = min(MARGIN, min(before.pixels.shape[-2:]) // 8)
    return Search(
        before=before, observed=observed, domain=structure.domain, evidence=Evidence.of(before, observed, margin),
        given=structure.given, whole=structure.whole,
    )  # fmt: skip


def _facts(structure: Structure, search: Search, best: Hypothesis) -> list[Fact]:
    """What is certain, the value of the borders included once the causes that change it too are known."""
    if structure.fills is None:
        return list(structure.facts)
    border = search.before.with_pixels(structure.fills[0].float().view(1, -1, 1, 1))
    for cause in best.causes:
        if cause.stage > Rounding.stage:
            border = border.with_pixels(cause.apply(border))
    wrong = (border.pixels.flatten() - structure.fills[1].float()) / search.evidence.gain
    if float(wrong.abs().max()) < 1:
        return list(structure.facts)
    return [*structure.facts, Fact(family="letterbox", name="letterbox_fill", detail="the borders have another value")]


def _certain(fact: Fact) -> Finding:
    return Finding(family=fact.family, name=fact.name, detail=fact.detail, share=None, margin=math.inf, confidence=1.0)


def _finding(cause: Cause, share: float, best: Hypothesis, judged: Sequence[Hypothesis]) -> Finding:
    without = min((h.score for h in judged if cause.family not in h.families), default=math.inf)
    margin = without - best.score
    return Finding(
        family=cause.family, name=cause.name, detail=cause.detail, share=share, margin=margin,
        confidence=confidence(margin), alike=_alike(cause, best, judged), hides=cause.hides,
    )  # fmt: skip


def confidence(margin: float) -> float:
    """How often a cause with this margin, in nats, was right on the pairs on which the tool was tuned."""
    return 1 / (1 + math.exp(-(margin - 0.1) / 0.15)) if margin < 10 else 1.0


def _alike(cause: Cause, best: Hypothesis, judged: Sequence[Hypothesis]) -> tuple[str, ...]:
    """Causes that could stand in the place of this one: all else equal, the score is the same within the noise."""
    others = {other.name for other in best.causes if other is not cause}
    found = {}
    for hypothesis in judged:
        if hypothesis.score > best.score + TIE_NATS:
            break
        names = {other.name: other for other in hypothesis.causes}
        if len(names) == len(best.causes) and others < names.keys() and cause.name not in names:
            found.update({name: other.detail for name, other in names.items() if name not in others})
    return tuple(found.values())


# --- shares ---------------------------------------------------------------------------------------------


def _shares(structure: Structure, search: Search, causes: Sequence[Cause]) -> tuple[float, list[float], float]:
    """Mean absolute difference, the share of it that each cause explains, and the share that remains."""
    whole = replace(search, before=whole_picture(structure.before), observed=whole_picture(structure.observed))
    reach = 3 + max(
        (abs(round(d)) for c in causes if isinstance(c, Displacement) for d in (c.dy_px, c.dx_px)), default=0
    )
    edge = min(reach, min(structure.before.shape[-2:]) // 4)

    def left(chosen: Sequence[Cause]) -> float:
        error = whole.observed.pixels - whole.predicted(chosen)
        return float(error[..., edge:-edge, edge:-edge].abs().mean())

    worth = {chosen: left(chosen) for n in range(len(causes) + 1) for chosen in itertools.combinations(causes, n)}
    nothing, everything = worth[()], worth[tuple(causes)]
    if nothing == 0:
        return 0.0, [0.0] * len(causes), 0.0
    return nothing, [_shapley(cause, causes, worth) / nothing for cause in causes], everything / nothing


def _shapley(cause: Cause, causes: Sequence[Cause], worth: Mapping[tuple[Cause, ...], float]) -> float:
    """Mean, over all orders in which the causes may be undone, of what undoing this one takes away."""
    total, n = 0.0, len(causes)
    for chosen, left in worth.items():
        if cause not in chosen:
            with_it = tuple(other for other in causes if other in chosen or other is cause)
            weight = math.factorial(len(chosen)) * math.factorial(n - len(chosen) - 1) / math.factorial(n)
            total += weight * (left - worth[with_it])
    return total
