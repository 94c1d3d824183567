"""Clips without truth: what got worse is called broken, what got better fixed, and nothing else is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_task
import torch

from holdfast.cli.main import main
from holdfast.core.contracts import Metric
from holdfast.core.errors import InputError
from holdfast.data.clips import read_clips
from holdfast.verify.cases import compare_cases, judge_symptom, with_clips
from holdfast.verify.order import Order, load_source
from holdfast.weights import files

JITTER = Metric(name="jitter", unit="m", compute=lambda o, b: o, over="sequence")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One steady clip and one that jumps, as recorded arrays."""
    folder = tmp_path_factory.mktemp("clips")
    for name, positions in (("steady", [6] * 20), ("jumping", [3, 12] * 10)):
        frames = np.full((20, 1, 8, 16), 0.1, dtype=np.float32)
        for t, position in enumerate(positions):
            frames[t, :, :, position] += 0.6
        np.savez(folder / f"{name}.npz", image=frames)
    (folder / "notes.txt").write_text("not a clip")
    return folder


@pytest.fixture(scope="module")
def calm(weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights with a head that answers half as far."""
    state, about = files.load(weights)
    path = tmp_path_factory.mktemp("calm") / "calm.safetensors"
    state["head.weight"] = 0.2 * state["head.weight"]
    files.save(path, state, about)
    return path


def _cases(weights, task, clips, out, **options):
    order = Order(source=load_source(weights, task), out=out, subjects=("eager:fp32",), **options)
    return order, read_clips(clips, "image")


def test_calmer_weights_fix_the_jumping_clip_and_the_other_way_round_breaks_it(
    weights, calm, task, clips, tmp_path
) -> None:
    order, found = _cases(calm, task, clips, tmp_path)
    fixed = compare_cases(order, found, against=load_source(weights, task), quiet=True)
    assert {case.clip: case.change for case in fixed.cases} == {"steady": "unchanged", "jumping": "fixed"}
    assert fixed.exit_code == 0
    order, found = _cases(weights, task, clips, tmp_path)
    broken = compare_cases(order, found, against=load_source(calm, task), quiet=True)
    assert [(case.clip, case.change) for case in broken.cases] == [("jumping", "broken"), ("steady", "unchanged")]
    assert broken.exit_code == 1
    (jitter,) = broken.cases[0].symptoms
    assert jitter.after > jitter.before + jitter.limit
    assert broken.cases[0].moved["moved"] > 0.01
    assert broken.weights["in use"]["file"] == "calm.safetensors"


def test_another_runtime_of_the_same_weights_leaves_the_clips_unchanged(weights, task, clips, tmp_path, warm) -> None:
    order, found = _cases(weights, task, clips, warm(tmp_path))
    told = compare_cases(replace(order, subjects=("eager:fp32", "onnxruntime:fp32")), found, quiet=True)
    assert {case.subject for case in told.cases} == {"onnxruntime:fp32"}
    assert {case.change for case in told.cases} == {"unchanged"}
    blurred = replace(order, preprocessing=("train", "vehicle"))
    told = compare_cases(blurred, found, quiet=True)
    assert {(case.subject, case.pipeline) for case in told.cases} == {("eager:fp32", "vehicle")}


def test_a_change_counts_from_its_limit_on() -> None:
    def change(before: float, after: float, **options: float | None) -> str:
        given = {"floor": 0.0, "margin": None, **options}
        return judge_symptom(JITTER, before, after, **given).change

    assert change(1.0, 1.09) == change(1.0, 0.91) == "unchanged"
    assert change(1.0, 1.11) == "broken"
    assert change(1.0, 0.89) == "fixed"
    assert change(1.0, 1.4, margin=0.5) == change(1.0, 1.5, floor=0.6) == "unchanged"
    assert change(0.0, 0.0) == "unchanged"


def test_the_command_writes_reports_without_pictures_unless_asked(weights, calm, task, clips, tmp_path, capsys) -> None:
    def run(*more: object) -> int:
        asked = ("cases", clips, weights, "--against", calm, "--task", task, "--out", tmp_path, "--quiet", *more)
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in asked])
        return int(end.value.code or 0)

    assert run() == 1
    said = capsys.readouterr().out
    assert said.startswith("1 broken, 0 fixed, 1 unchanged of 2 cases")
    record = json.loads((tmp_path / "cases.json").read_text())
    assert record["cases"][0]["change"] == "broken"
    html = (tmp_path / "cases.html").read_text()
    assert "1 broken" in html
    assert "<svg" in html
    assert "data:image/" not in html
    assert run("--pictures") == 1
    assert "data:image/jpeg" in (tmp_path / "cases.html").read_text()
    assert run("--margin", "jitter=100") == 0
    assert run("--margin", "sway=1") == 2
    assert "no symptom 'sway'" in capsys.readouterr().err


def test_a_task_without_symptoms_and_a_clip_that_is_too_short_are_refused(weights, task, clips, tmp_path) -> None:
    order, found = _cases(weights, task, clips, tmp_path)
    mute = replace(order, source=replace(order.source, task=replace(order.source.task, symptoms=())))
    with pytest.raises(InputError, match="declares no symptoms"):
        compare_cases(mute, found, quiet=True)
    np.savez(tmp_path / "short.npz", image=np.zeros((2, 1, 8, 16), np.float32))
    with pytest.raises(InputError, match="at least 3"):
        read_clips(tmp_path, "image")["short"]()


def test_frames_of_another_size_are_refused(weights, task, tmp_path) -> None:
    np.savez(tmp_path / "wide.npz", image=np.zeros((5, 1, 8, 20), np.float32))
    order, found = _cases(weights, task, tmp_path, tmp_path / "out")
    with pytest.raises(InputError, match=r"clip 'wide': 'image' of a frame is \(1, 8, 20\), of task .* \(1, 8, 16\)"):
        compare_cases(order, found, quiet=True)


def test_clips_are_splits_of_the_task_and_one_group_each(clips) -> None:
    task = with_clips(tiny_task.tiny(), read_clips(clips, "image"))
    assert len(task.data("jumping")) == 20
    assert len(task.data("report")) == 60
    assert task.group({"image": torch.zeros(3, 1, 8, 16)}) == [0, 0, 0]
