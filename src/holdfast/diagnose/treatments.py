"""Treatments: what to do about findings, each with its evidence and, where training helps, with a recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from holdfast.diagnose.findings import Finding
from holdfast.select.wording import amount, number

__all__ = ["Treatment", "prescribe"]

LONGEST = 6


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
    """A treatment and the findings that call for it; ``weight`` discounts what a treatment only eases."""

    name: str
    title: str
    how: str
    calls: Callable[[Finding], bool]
    weight: float = 1.0
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
    found = [treatment for rule in _rules(broken) for treatment in _treat(rule, broken, findings)]
    weights = {rule.name: rule.weight for rule in _rules(broken)}
    found.sort(key=lambda t: (not t.as_shipped, -t.damage * weights[t.name]))
    return found[:longest]


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
    """One rule per fault of the input that was found by mending it: of repairs that do the same, the best."""
    named: dict[frozenset[str], str] = {}
    for finding in sorted((f for f in broken if f.kind == "repair"), key=_first_simple):
        kinds = _kinds(finding.name)
        if not any(kinds & other for other in named):
            named[kinds] = finding.name
    for name in named.values():
        title, how = _mending(name)
        yield _Rule(name=name, title=title, how=how, calls=lambda f, n=name: f.kind == "repair" and f.name == n)


def _first_simple(finding: Finding) -> float:
    """By what it brings back; a repair more has to bring back as much more as is tolerated."""
    return finding.tolerance * finding.name.count("+") - finding.damage


def _kinds(name: str) -> frozenset[str]:
    """What a repair changes: all sets of constants are one kind, and so are all curves of tone."""
    parts = {"normalisation" if part.startswith("normalised_as_") else part for part in name.split("+")}
    return frozenset("tone" if "gamma" in part or "range" in part else part for part in parts)


def _mending(name: str) -> tuple[str, str]:
    if name == "batchnorm_statistics":
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
        how="an exponential average sits in a flatter place; it costs nothing", calls=lambda f: True, weight=0.3,
        recipe={"averages": {"ema": {}}},
    ),
)  # fmt: skip
"""Treatments that every diagnosis considers."""
