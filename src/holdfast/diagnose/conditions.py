"""Conditions of rows taken apart: ``pgd eps=0.5`` is the family ``pgd`` at the strength 0.5 of ``eps``."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["UNDISTURBED", "Condition", "read_condition"]

UNDISTURBED = ("", "reference", "none", "clean")
"""Conditions under which probes measure what their other rows are to be compared with, best last."""
STRENGTHS = ("eps", "severity", "strength", "std", "amount", "level", "sigma")
"""Settings that say how strong a disturbance is; of several the first counts."""
LAYERS = re.compile(r"(reinit|rerand|int8|fp16|bf16|tf32) (.+)")
STEPS = re.compile(r"share of (.+?)(?: \(\d+ orders\))?")


@dataclass(frozen=True, kw_only=True)
class Condition:
    """The setting of a probe.

    Args:
        family: everything but strength and place; rows of one family are one curve, or one ranking.
        strength: how strong, None where the condition has no such number.
        measure: name of the strength, e.g. ``eps``.
        layer: which layer was changed, empty where none was.
        step: of which preprocessing step this is the share, empty where of none.
    """

    family: str
    strength: float | None = None
    measure: str = ""
    layer: str = ""
    step: str = ""


def read_condition(text: str) -> Condition:
    """Words and ``key=value`` settings; ``int8 conv1`` is a layer, ``share of resize`` a step."""
    if found := STEPS.fullmatch(text):
        return Condition(family="share", step=found[1])
    if found := LAYERS.fullmatch(text):
        return Condition(family=found[1], layer=found[2])
    settings = dict(re.findall(r"([A-Za-z_]+)=(\S+)", text))
    measure = next((name for name in STRENGTHS if _number(settings.get(name, "")) is not None), "")
    family = " ".join(word for word in text.split() if not measure or not word.startswith(f"{measure}="))
    return Condition(family=family, strength=_number(settings.get(measure, "")), measure=measure)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
