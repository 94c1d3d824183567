"""Treatments: what to do about findings, each with its evidence and, where training helps, with a recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from holdfast.diagnose.findings import Finding
from holdfast.select.wording import amount, number

__all__ = ["Treatment", "prescribe"]

LONGEST = 6
STATISTICS = "batchnorm_statistics"
USUAL = tuple(f"normalised_as_{name}" for name in ("declared", "unit", "levels", "imagenet", "half", "mnist"))


@dataclass(frozen=True, kw_only=True)
class Treatment:
    """Something to do.

    Args:
        name: short, unique.
        title: in one line.
        how: what exactly.
        damage: what it may give back, in ``unit``: that of the findings it answers.
        unit: of the damage.
        as_shipped: whether the damage is there without anybody's doing.
        evidence: the findings in words.
        recipe: body of a recipe in a study file; None where nothing has to be trained.
    """

    name: str
    title: str
    how: str
    damage: float
    unit: str
    as_shipped: bool
    evidence: tuple[str, ...]
    recipe: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class _Rule:
    """A treatment and the findings that call for it.

    ``weight`` discounts what a treatment only eases; ``surcharge``, in tolerances, one that is less likely the cause.
    """

    name: str
    title: str
    how: str
    calls: Callable[[Finding], bool]
    weight: float = 1.0
    surcharge: float = 0.0
    recipe: Mapping[str, Any] | None = None
    supports: Callable[[Finding], bool] = field(default=lambda finding: False)


def prescribe(findings: Sequence[Finding], *, longest: int = LONGEST) -> list[Treatment]:
    """Treatments for what breaks: first what ships, then by how much they may give back.

    A treatment is only listed with a finding above the tolerance for which it is made. Of treatments for the same
    damage the one that mends the cause stands before those that ease it.

    Args:
        findings: of `holdfast.diagnose.findings.find`.
        longest: at most that many.
    """
    broken = [finding for finding in findings if finding.breaks]
    tolerance = max((finding.tolerance for finding in broken), default=0.0)
    found = [(rule, treatment) for rule in _rules(broken) for treatment in _treat(rule, broken, findings)]

    def rank(pair: tuple[_Rule, Treatment]) -> tuple[bool, float]:
        rule, treatment = pair
        return not treatment.as_shipped, rule.surcharge * tolerance - treatment.damage * rule.weight

    return [treatment for _, treatment in sorted(found, key=rank)[:longest]]


def _treat(rule: _Rule, broken: Sequence[Finding], findings: Sequence[Finding]) -> Iterator[Treatment]:
    reasons = [finding for finding in broken if rule.calls(finding)]
    if not reasons:
        return
    support = [finding for finding in findings if rule.supports(finding) and finding not in reasons]
    worst = max(reasons, key=lambda finding: (finding.as_shipped, finding.damage))
    yield Treatment(
        name=rule.name, title=rule.title, how=rule.how, damage=worst.damage, unit=worst.unit,
        as_shipped=worst.as_shipped, evidence=tuple(map(_said, [*reasons[:3], *support[:2]])), recipe=rule.recipe,
    )  # fmt: skip


def _said(finding: Finding) -> str:
    """A finding as evidence: what, how much, from what strength, how sure."""
    what = {"repair": "undoing", "layer": "layer", "step": "step"}.get(finding.kind, "")
    verb = "brings back" if finding.kind == "repair" else "costs"
    text = f"{what} {finding.name} {verb} {amount(finding.damage, finding.unit)} of {finding.metric}".strip()
    if finding.interval is not None and finding.interval.bounded:
        text += f" ({number(finding.interval.low)} to {number(finding.interval.high)})"
    if finding.breaks_at is not None and finding.measure:
        text += f", from {finding.measure} {finding.breaks_at:g} on"
    if finding.carried_by:
        text += f" ({', '.join(finding.carried_by[:3])})"
    doubts = f", doubts: {', '.join(finding.flags)}" if finding.flags else ""
    return f"{text}, n {finding.n}{doubts}"


# --- the rules ------------------------------------------------------------------------------------------


def _rules(broken: Sequence[Finding]) -> Iterator[_Rule]:
    """Rules for what stands in the findings, then those that are always asked."""
    yield from _repair_rules(broken)
    layers = [finding for finding in broken if finding.kind == "layer"]
    if layers:
        worst = max(layers, key=lambda finding: finding.damage)
        yield _Rule(
            name=f"keep_{worst.name}_in_fp32", title=f"Keep layer {worst.name} in fp32",
            how=f"exclude {worst.name} from quantisation; holdfast verify then says whether that is enough",
            calls=lambda f: _low_precision(f) or f.kind == "layer",
        )  # fmt: skip
    yield from STANDING


def _repair_rules(broken: Sequence[Finding]) -> Iterator[_Rule]:
    """For each pipeline the repair that brings most back, and others that cannot be told apart from it.

    A worse repair of the same input mends a part of the same fault, so it is not named.
    """
    repairs = sorted((f for f in broken if f.kind == "repair"), key=_simplest)
    named: dict[str, frozenset[str]] = {}
    for finding in repairs:
        best = next(f for f in repairs if f.preprocessing == finding.preprocessing)
        parts = _parts(finding.name)
        if finding.damage >= best.damage - finding.tolerance and not any(parts & other for other in named.values()):
            named[finding.name] = parts
    for name in named:
        title, how = _mending(name)
        yield _Rule(name=name, title=title, how=how, calls=partial(_is_repair, name), surcharge=_surcharge(name))


def _is_repair(name: str, finding: Finding) -> bool:
    return finding.kind == "repair" and finding.name == name


def _simplest(finding: Finding) -> float:
    """By what it brings back, less what a repair that explains too much, or is unusual, must bring beyond others."""
    return _surcharge(finding.name) * finding.tolerance - finding.damage


def _surcharge(name: str) -> float:
    """In tolerances: one for each further repair and for unusual constants, half for statistics: they absorb shifts."""
    odd = [part for part in name.split("+") if part.startswith("normalised_as_") and part not in USUAL]
    return name.count("+") + len(odd) + 0.5 * (name == STATISTICS)


def _parts(name: str) -> frozenset[str]:
    """What a repair changes: all sets of constants are one kind, and so are all curves of tone."""
    parts = {"normalisation" if part.startswith("normalised_as_") else part for part in name.split("+")}
    return frozenset("tone" if "gamma" in part or "range" in part else part for part in parts)


def _mending(name: str) -> tuple[str, str]:
    if name == STATISTICS:
        return (
            "Estimate the BatchNorm statistics anew",
            "holdfast.weights.batchnorm.recalibrate(model, training batches) before export: the stored statistics do "
            "not belong to these weights and inputs",
        )
    parts = [_part(part) for part in name.split("+")]
    return " and ".join(title for title, _ in parts), "; ".join(how for _, how in parts)


def _part(name: str) -> tuple[str, str]:
    if name == "channel_order":
        return "Exchange red and blue in the pipeline", "the model expects the other channel order (RGB against BGR)"
    if name.startswith("normalised_as_"):
        constants = name.removeprefix("normalised_as_")
        return f"Normalise the input as {constants}", f"feed what holdfast explain-drift --domain {constants} expects"
    return f"Mend the input: {name.replace('_', ' ')}", "the model is better on inputs that are changed in this way"


def _low_precision(finding: Finding) -> bool:
    return finding.kind in ("precision", "both") and any(p in finding.name for p in ("int8", "fp16", "bf16", "tf32"))


def _pipeline(finding: Finding) -> bool:
    return finding.kind == "pipeline"


def _attack(finding: Finding) -> bool:
    return finding.kind == "strength" and finding.measure == "eps"


def _disturbance(finding: Finding) -> bool:
    return finding.kind == "strength" and finding.measure != "eps"


def _resampled(finding: Finding) -> bool:
    return finding.kind == "step" and any(word in finding.name for word in ("resize", "kernel", "resample"))


STANDING: tuple[_Rule, ...] = (
    _Rule(
        name="align_pipelines", title="Make the vehicle's preprocessing that of training",
        how="the steps listed as evidence differ; antialias when shrinking, and use one kernel on both sides",
        calls=_pipeline, supports=lambda f: f.kind == "step", weight=0.95,
    ),
    _Rule(
        name="preprocess_jitter", title="Train on variants of the preprocessing",
        how="train with mixtures of the pipelines that may ship, so that the model does not depend on one of them",
        calls=lambda f: _pipeline(f) or _resampled(f), weight=0.9,
        recipe={"methods": [{"preprocess_jitter": {"pipelines": []}}]},
    ),
    _Rule(
        name="adversarial_training", title="Adversarial training at a small budget",
        how="FGSM at half a grey level, half clean: it flattens the model around its inputs, other pipelines included",
        calls=lambda f: _attack(f) or _pipeline(f) or _disturbance(f), weight=0.8,
        recipe={"methods": [{"adversarial": {"attack": {"fgsm": {"eps": 0.5}}, "clean_weight": 0.5}}]},
    ),
    _Rule(
        name="regmixup", title="RegMixup",
        how="a second loss on mixed inputs: more margin under noise, blur and weather",
        calls=_disturbance, weight=0.7, recipe={"methods": ["regmixup"]},
    ),
    _Rule(
        name="quantisation_aware", title="Quantisation-aware training",
        how="train with the rounding of int8 in the forward pass", calls=_low_precision, weight=0.8,
        recipe={"surgery": ["quantisation_aware"]},
    ),
    _Rule(
        name="ema", title="Average the weights over training",
        how="an exponential average sits in a flatter place; it costs nothing", calls=_disturbance, weight=0.3,
        recipe={"averages": {"ema": {}}},
    ),
)  # fmt: skip
"""Treatments that every diagnosis considers."""
