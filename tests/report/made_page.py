"""A report with everything in it, made from synthetic rows, and without a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from made_study import ERROR, MadeRun, made_study

from holdfast.core.contracts import Picture
from holdfast.report.inputs import ReportInput
from holdfast.select.gates import check_gates
from holdfast.select.verdict import judge

GATES = [
    {"name": "at most 10 %", "metric": ERROR, "preprocessing": "vehicle", "relative_to": "train", "max": 1.1},
    {"name": "int8 follows", "metric": ERROR, "preprocessing": "vehicle", "subject": "onnxruntime:int8",
     "equivalent_to": "eager:fp32", "margin": 0.05},
    {"name": "undecided", "metric": ERROR, "preprocessing": "vehicle", "max": 0.45},
]  # fmt: skip


@dataclass(frozen=True)
class MadeShow:
    recipe: str
    weights: str
    pictures: tuple[Picture, ...]
    series: dict[str, np.ndarray]


def made_show(recipe: str, weights: str, sway: float) -> MadeShow:
    rows = np.linspace(30, 88, 8)
    line, right = np.stack([60 + 0.4 * rows, rows], axis=1), np.array([1.0, 0.0])
    picture = Picture(
        image=np.full((96, 160, 3), 90, dtype=np.uint8),
        lines={"deployed": [line + right * sway * 9], "truth": [line, line + right * 30], "reference": [line + right]},
        caption="frame 7",
    )
    truth = 0.3 * np.sin(np.arange(60) / 15)
    deployed = truth + sway * np.cos(np.arange(60))
    series = {"truth": truth, "reference: lane at 20 m": truth, "deployed: lane at 20 m": deployed}
    return MadeShow(recipe, weights, (picture,), series)


def made_report(seeds: int = 5, *, bare: bool = False, **changes: Any) -> ReportInput:
    """``bare``: no gates, pictures, curves, attacks, failures or flags."""
    study = made_study(seeds, **({} if bare else {"gates": GATES}) | changes)
    run = MadeRun(study)
    rows = run.without(probe="adversarial") if bare else run.changed({"precision": "int8"}, flags=("transferred",))
    verdict = judge(study, rows)
    if bare:
        return ReportInput(study=study, rows=rows, verdict=verdict)
    return ReportInput(
        study=study, rows=rows, verdict=verdict, gates=check_gates(study, rows, verdict, run.samples),
        shows=(made_show("baseline", "last", 0.1), made_show("fgsm", "ema", 0.03)),
        failures={"fgsm seed 3": "loss became NaN in step 12"}, stale_count=4,
        provenance={"k1": {"commit": "0123abc", "cpu": "a processor", "versions": {"torch": "2.13.0"}}},
    )  # fmt: skip
