"""Five planted faults: the treatment of the planted cause is among the first two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import Tensor

from holdfast.core.config import load_study
from holdfast.diagnose.order import Order
from holdfast.diagnose.prescription import study_text
from holdfast.diagnose.run import Diagnosis, diagnose
from holdfast.study.jobs import study_task
from holdfast.study.plan import make_plan

PROBES = ("clean", "deployment", "input_repair")
EAGER, INT8 = ("eager:fp32",), ("eager:fp32", "emulated:int8")


def stale(state: dict[str, Tensor]) -> None:
    """Statistics of other weights: a BatchNorm that an average left behind."""
    state["norm.running_mean"] += 1.5 * state["norm.running_var"].sqrt()
    state["norm.running_var"] *= 9


def fragile(state: dict[str, Tensor]) -> None:
    """The same function, with one channel between the convolutions far larger than the others."""
    state["norm.weight"][0] *= 400
    state["norm.bias"][0] *= 400
    state["second.weight"][:, 0] /= 400


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "order": ({"task": {"vehicle": "order"}, "subjects": EAGER}, "channel_order"),
    "raw": ({"task": {"vehicle": "raw"}, "subjects": EAGER}, "normalised_as_imagenet"),
    "resize": ({"task": {"vehicle": "resize"}, "subjects": EAGER}, "align_pipelines"),
    "int8": ({"change": fragile, "subjects": INT8, "probes": ("deployment", "criticality")}, "keep_second_in_fp32"),
    "batchnorm": ({"change": stale, "subjects": EAGER}, "batchnorm_statistics"),
}


def found_for(order: Order) -> Diagnosis:
    return diagnose(replace(order, probes=order.probes or PROBES), workers=0, quiet=True)[0]


@pytest.mark.parametrize("fault", FAULTS)
def test_the_planted_cause_is_treated_first_or_second(order_of: Callable[..., Order], fault: str) -> None:
    options, wanted = FAULTS[fault]
    found = found_for(order_of(**options))
    assert wanted in [treatment.name for treatment in found.treatments[:2]]
    treatment = next(treatment for treatment in found.treatments if treatment.name == wanted)
    assert treatment.as_shipped
    assert treatment.damage > 0.1
    assert treatment.evidence
    assert found.exit_code == 1


def test_a_wrong_pipeline_without_a_right_one_is_named_too(order_of: Callable[..., Order]) -> None:
    for wrong, name in (("order", "channel_order"), ("raw", "normalised_as_imagenet")):
        found = found_for(order_of(task={"train": wrong}, subjects=EAGER))
        assert found.treatments[0].name == name


def test_a_sound_model_gets_no_treatment_for_what_ships(order_of: Callable[..., Order]) -> None:
    found = found_for(order_of(task={"vehicle": "right"}, subjects=EAGER))
    assert found.findings
    assert [treatment.name for treatment in found.treatments if treatment.as_shipped] == []
    assert found.exit_code == 0


def test_the_study_is_ready_to_run(order_of: Callable[..., Order]) -> None:
    order = order_of(task={"vehicle": "resize"}, subjects=EAGER)
    found, patient = diagnose(replace(order, probes=("deployment",)), workers=0, quiet=True)
    text = study_text(order, patient, found)
    assert text is not None
    path = order.out / "study.yaml"
    path.write_text(text)
    study = load_study(path)
    assert list(study.recipes)[:2] == ["baseline", "preprocess_jitter"]
    assert study.recipes["preprocess_jitter"].note.startswith("because vehicle costs")
    assert len(study.seeds()) == 5
    assert not Path(yaml.safe_load(text)["task"].rpartition(":")[0]).is_absolute()
    plan = make_plan(study, study_task(study, path.parent), base=path.parent)
    assert len(plan.trainings) == 5 * len(study.recipes)
