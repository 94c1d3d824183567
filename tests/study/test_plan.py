"""Keys of cells: they change with everything that influences a cell, and with nothing else."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest

from holdfast.core.config import parse_study
from holdfast.core.discover import load_task
from holdfast.core.errors import InputError
from holdfast.study.plan import Plan, make_plan


def plan_of(raw: dict[str, Any]) -> Plan:
    study = parse_study(raw)
    return make_plan(study, load_task(study.task, study.task_options, base=Path()), base=Path())


def keys(plan: Plan) -> tuple[set[str], set[str]]:
    return {cell.key for cell in plan.trainings}, {cell.key for cell in plan.measurements}


@pytest.fixture(autouse=True)
def one_source(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings are what these tests change; hashing all of the source each time would take most of their time."""
    if "source" not in request.function.__name__:
        monkeypatch.setattr("holdfast.study.plan.source_hash", lambda roots: "source")


def test_every_recipe_seed_and_probe_has_a_cell_of_its_own(raw_study: dict[str, Any]) -> None:
    trainings, measurements = keys(plan_of(raw_study))
    assert len(trainings) == 2 * 2
    assert len(measurements) == 2 * 2 * 2


@pytest.mark.parametrize(
    ("path", "value", "trains_again", "measures_again"),
    [
        (("description",), "in other words", False, False),
        (("training", "checkpoint_seconds"), 100, False, False),
        (("gates",), [], False, False),
        (("recipes", "fgsm", "note"), "a note", False, False),
        (("training", "lr"), 0.02, True, True),
        (("training", "epochs"), 3, True, True),
        (("subjects",), ["eager:fp32"], False, True),
        (("preprocessing",), ["train"], False, True),
        (("recipes", "baseline", "averages", "ema", "decay"), 0.5, True, True),
    ],
)
def test_what_a_key_depends_on(
    raw_study: dict[str, Any], path: tuple[str, ...], value: Any, trains_again: bool, measures_again: bool
) -> None:
    before = keys(plan_of(raw_study))
    changed = copy.deepcopy(raw_study)
    node = changed
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    after = keys(plan_of(changed))
    assert (before[0] != after[0], before[1] != after[1]) == (trains_again, measures_again)


def test_another_recipe_leaves_the_first_ones_alone(raw_study: dict[str, Any]) -> None:
    before = keys(plan_of(raw_study))
    raw_study["recipes"]["third"] = {}
    after = keys(plan_of(raw_study))
    assert before[0] < after[0]
    assert before[1] < after[1]


def test_the_source_of_the_task_file_counts_and_its_folder_does_not(raw_study: dict[str, Any], tmp_path: Path) -> None:
    original = keys(plan_of(raw_study))
    copied = tmp_path / "toy_task.py"
    shutil.copy(Path(__file__).parent / "toy_task.py", copied)
    raw_study["task"] = f"{copied}:make"
    task_moved = plan_of(raw_study)
    copied.write_text(copied.read_text().replace("AdaptiveAvgPool2d(2)", "AdaptiveMaxPool2d(2)"))
    raw_study["task_options"] = {}
    assert keys(plan_of(raw_study))[0].isdisjoint(keys(task_moved)[0])
    assert len(original[0]) == len(keys(task_moved)[0])


def test_the_contents_of_a_teacher_count(raw_study: dict[str, Any], tmp_path: Path) -> None:
    teacher = tmp_path / "teacher.safetensors"
    raw_study["recipes"]["taught"] = {"methods": [{"adversarial": {}}]}
    plain = keys(plan_of(raw_study))[0]
    raw_study["recipes"]["taught"] = {"methods": [{"rst": {"teacher": str(teacher)}}]}
    with pytest.raises(InputError, match=r"no file .*teacher.safetensors"):
        plan_of(raw_study)
    found = []
    for content in (b"one", b"another", b"one"):
        teacher.write_bytes(content)
        found.append(keys(plan_of(raw_study))[0])
    assert found[0] == found[2]
    assert len(found[0] - found[1]) == 2  # the taught recipe under two seeds; the others keep their keys
    assert len(plain & found[0]) == 4
