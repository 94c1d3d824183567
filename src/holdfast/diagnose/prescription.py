"""A study file that compares the prescribed treatments with what there is, ready to run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from holdfast.core.config import parse_study
from holdfast.core.discover import build
from holdfast.core.errors import InputError
from holdfast.diagnose.order import Order
from holdfast.diagnose.patient import Patient
from holdfast.diagnose.run import Diagnosis
from holdfast.diagnose.treatments import Treatment

__all__ = ["study_text"]

RECIPES = 3
SEEDS = 5
"""A winner needs at least five."""


def study_text(order: Order, patient: Patient, found: Diagnosis) -> str | None:
    """The study as YAML, for the folder ``order.out``; None where no treatment has anything to train.

    Raises:
        InputError: a treatment does not fit this holdfast any more, which is a fault of holdfast.
    """
    training = [treatment for treatment in found.treatments if treatment.recipe is not None][:RECIPES]
    if not training:
        return None
    study = _study(order, patient, found, training)
    _check(study)
    head = ["# Prescribed by `holdfast diagnose`; run it with `holdfast run`. What has nothing to train comes first:"]
    head += [f"# - {t.title}: {' '.join(t.how.split())}" for t in found.treatments if t.recipe is None]
    return "\n".join(head) + "\n" + yaml.safe_dump(study, sort_keys=False, width=110)


def _study(order: Order, patient: Patient, found: Diagnosis, training: Sequence[Treatment]) -> dict[str, Any]:
    recipes: dict[str, Any] = {"baseline": {"note": "as trained before"}}
    for treatment in training:
        assert treatment.recipe is not None
        recipes[treatment.name] = {**treatment.recipe, "note": f"because {treatment.evidence[0]}"}
    low = [f.name for f in found.findings if f.kind == "precision" and f.breaks][:1]
    probes: list[Any] = [{"deployment": _splits(order, patient)}]
    if any(finding.measure == "eps" and finding.breaks for finding in found.findings):
        probes.append({"adversarial": {"eps": [0.5, 1.0], "samples": 64, "split": order.split}})
    shipped = [f.name for f in found.findings if f.kind == "pipeline"][:1]
    return {
        "name": "prescribed",
        "description": f"Treatments prescribed for {found.task}",
        "task": _task(order, patient),
        **({"task_options": dict(order.options)} if order.options else {}),
        "recipes": recipes,
        "init_seeds": list(range(SEEDS)),
        "order_seeds": list(range(SEEDS)),
        "preprocessing": [patient.pipelines[0], *shipped],
        "subjects": ["eager:fp32", *low],
        "probes": probes,
        "select": {"baseline": "baseline"},
    }  # fmt: skip


def _splits(order: Order, patient: Patient) -> dict[str, Any]:
    """Splits to measure on: those for frames and sequences that the task has."""
    frames = [split for split in dict.fromkeys(("select", order.split)) if patient.has(split)]
    sequences = [split for split in dict.fromkeys(("select_sequence", order.sequences)) if patient.has(split)]
    return {"splits": frames, "sequences": sequences}


def _task(order: Order, patient: Patient) -> str:
    """The task as it is named from the folder of the study."""
    place, colon, name = patient.spec.rpartition(":")
    if not place.endswith(".py"):
        return patient.spec
    return f"{Path(os.path.relpath((patient.base / place).resolve(), order.out.resolve())).as_posix()}{colon}{name}"


def _check(raw: dict[str, Any]) -> None:
    study = parse_study(raw, where="prescribed study")
    for probe in study.probes:
        build("probe", probe)
    for name, recipe in study.recipes.items():
        try:
            for kind, specs in (("method", recipe.methods), ("surgery", recipe.surgery)):
                for spec in specs:
                    build(kind, spec)
        except InputError as error:
            raise InputError(error.what, where=f"prescribed recipe {name!r}") from error
