"""Which probes can run on a subject, with which options, and why the others cannot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from holdfast.core.config import PlugIn
from holdfast.core.discover import build, load, names, plugin_module
from holdfast.core.errors import HoldfastError, InputError, nearest
from holdfast.core.fingerprint import config_hash, source_hash
from holdfast.diagnose.order import Order
from holdfast.diagnose.patient import Patient

__all__ = ["FIRST", "Planned", "Skipped", "make_plan"]

FIRST = ("clean", "deployment", "input_repair", "preprocessing", "corruptions", "adversarial", "criticality")
"""Begun first: what most often explains a bad drive, and is quick. The others follow by name."""
QUICK: Mapping[str, float] = {
    "samples": 48, "steps": 10, "draws": 2, "restarts": 1, "queries": 300, "directions": 3, "iterations": 15,
    "kernel_samples": 32, "orders": 8, "rounds": 5,
}  # fmt: skip
"""Largest value of a numeric option in a quick diagnosis, whichever probe has it."""
QUICK_LISTS: Mapping[str, int] = {"eps": 3, "severities": 2, "radii": 3}
"""Longest list of an option, spread over its values; a ``quick`` mapping of the probe itself goes before."""
ASKED: Mapping[str, Mapping[str, Any]] = {
    "criticality": {"kinds": ["reinit", "rerand", "int8"], "recalibration": 0},
}  # fmt: skip
"""What a diagnosis asks of a probe beyond its defaults: which layer does not bear int8?"""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A probe that will run.

    Args:
        name: of the probe.
        options: as in a study file.
        on: the subject itself, or its eager twin.
        key: of everything its rows depend on.
    """

    name: str
    options: Mapping[str, Any]
    on: Literal["subject", "twin"]
    key: str

    @property
    def spec(self) -> PlugIn:
        """As in a study file."""
        return {self.name: dict(self.options)}


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A probe that will not run, and why."""

    name: str
    reason: str


@dataclass
class _Sorted:
    planned: list[Planned] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def make_plan(order: Order, patient: Patient) -> tuple[list[Planned], list[Skipped]]:
    """Match what probes need with what the subject, or else its eager twin, can do.

    Raises:
        InputError: an asked probe that does not exist (naming the nearest).
    """
    known = names("probe")
    for name in order.probes:
        if name not in known:
            raise InputError(f"no probe {name!r}", where="--probe", fix=nearest(name, known))
    asked = [name for name in known if not order.probes or name in order.probes]
    found = _Sorted()
    for name in sorted(asked, key=lambda name: (_rank(name), name)):
        _place(found, name, order, patient)
    return found.planned, found.skipped


def _rank(name: str) -> int:
    return FIRST.index(name) if name in FIRST else len(FIRST)


def _place(found: _Sorted, name: str, order: Order, patient: Patient) -> None:
    kind = load("probe", name)
    on: Literal["subject", "twin"] = "subject" if kind.needs <= patient.capabilities else "twin"
    missing = kind.needs - (patient.capabilities if on == "subject" else patient.twin_capabilities)
    if missing:
        found.skipped.append(Skipped(name=name, reason=_reason(kind.needs - patient.capabilities, patient)))
        return
    options = _options(name, kind, order, patient, on)
    try:
        build("probe", {name: options})
    except HoldfastError as error:
        found.skipped.append(Skipped(name=name, reason=str(error)))
        return
    source = source_hash([plugin_module("probe", name)])
    key = config_hash([patient.key, name, options, on, order.subjects, patient.pipelines, order.split, source])
    found.planned.append(Planned(name=name, options=options, on=on, key=f"{name}-{key}"))


def _reason(missing: frozenset[str], patient: Patient) -> str:
    what = " and ".join(sorted(missing))
    if patient.session is not None and patient.model is None:
        return f"needs {what}, which a session does not have: give the trained weights with --twin"
    if missing == {"initial"}:
        return "needs the weights before training: keep them as init.safetensors beside the weights"
    return f"needs {what}, which this subject does not have"


def _options(name: str, kind: type[Any], order: Order, patient: Patient, on: str) -> dict[str, Any]:
    """Where and how much to measure; everything else stays as the probe's author recommends."""
    defaults = {entry.name: entry.default for entry in fields(kind)}
    sequences = (order.sequences,) if order.sequences and patient.has(order.sequences) else ()
    wanted: dict[str, Any] = {"split": order.split, "splits": [order.split], "sequences": list(sequences)}
    if on == "twin" and patient.session is not None:
        wanted["replay"] = [patient.session.name]
    wanted |= ASKED.get(name, {})
    options = {option: value for option, value in wanted.items() if option in defaults}
    return {**_shortened(kind, defaults), **options} if order.quick else options


def _shortened(kind: type[Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, most in QUICK.items():
        value = defaults.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and value > most:
            options[name] = type(value)(most)
    for name, most in QUICK_LISTS.items():
        value = defaults.get(name)
        if isinstance(value, tuple | list) and len(value) > most:
            options[name] = [value[round(i * (len(value) - 1) / (most - 1))] for i in range(int(most))]
    return {**options, **getattr(kind, "quick", {})}
