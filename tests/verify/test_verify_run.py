from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper

from holdfast.core.errors import InputError
from holdfast.deploy.export import export_onnx
from holdfast.deploy.lint import Hazard
from holdfast.deploy.recording import write_kit
from holdfast.deploy.target import record
from holdfast.verify import cells, run
from holdfast.verify.order import Order, load_source, read_margins
from holdfast.verify.page import page
from holdfast.verify.run import Verification, verify
from holdfast.verify.told import changes, read_baseline, text, to_json

SUBJECTS = ("eager:fp32", "emulated:bf16", "onnxruntime:fp32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, translated) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    for part in ("artefacts", "rebuilt"):
        shutil.copytree(translated, folder / part)
    return folder


@pytest.fixture(scope="module")
def order(weights, task, folder) -> Order:
    return Order(
        source=load_source(weights, task), out=folder, subjects=SUBJECTS, preprocessing=("train", "vehicle"),
        margins={"moved": 0.05, "error": 0.05},
    )  # fmt: skip


@pytest.fixture(scope="module")
def found(order) -> Verification:
    return verify(order, quiet=True)


RUNTIME = """
import onnxruntime
session = onnxruntime.InferenceSession(r"{graph}", providers=["CPUExecutionProvider"])
def run(inputs):
    return session.run(None, inputs)
"""


def _part(found: Verification, factor: str, subject: str, pipeline: str, split: str = "report"):
    return next(
        part for part in found.compared
        if (part.factor, part.subject, part.pipeline, part.split) == (factor, subject, pipeline, split)
    )  # fmt: skip


def test_every_cell_is_measured_and_every_factor_compared(found) -> None:
    assert set(found.cells) == {"report", "report_sequence"}
    assert set(found.cells["report"]) == {"train", "vehicle"}
    assert set(found.cells["report"]["vehicle"]) == set(SUBJECTS)
    assert {part.factor for part in found.compared} == {"input", "arithmetic", "both"}
    assert [f.name for f in _part(found, "input", "eager:fp32", "vehicle").findings] == ["error", "moved"]
    assert [f.name for f in _part(found, "both", "emulated:bf16", "vehicle", "report_sequence").findings] == ["jitter"]


def test_the_input_is_blamed_where_it_is_to_blame(found) -> None:
    moved = _part(found, "input", "eager:fp32", "vehicle").findings[1]
    rounding = _part(found, "arithmetic", "onnxruntime:fp32", "train").findings[1]
    assert moved.interval.estimate > 100 * rounding.interval.estimate
    assert moved.interval.n == 6  # drives of ten frames, not frames
    assert "the input is to blame" in found.sentence
    assert found.inputs[0].mean > 10  # grey levels


def test_the_noise_floor_is_measured_for_the_model_and_every_session(found) -> None:
    changed = {(wobble.subject, wobble.change) for wobble in found.floor}
    assert {("eager:fp32", "threads"), ("eager:fp32", "batch of one")} <= changed
    assert {("onnxruntime:fp32", "built again"), ("onnxruntime:fp32", "threads")} <= changed
    floor = max(wobble.mean for wobble in found.floor if wobble.quantity == "moved")
    assert floor < 1e-4
    assert _part(found, "arithmetic", "onnxruntime:fp32", "train").findings[1].floor == floor


def test_margins_are_judged_for_the_arithmetic(found, order) -> None:
    judged = {f.name: f.outcome for f in _part(found, "arithmetic", "onnxruntime:fp32", "vehicle").findings}
    assert judged == {"error": "PASS", "moved": "PASS"}
    assert all(f.outcome is None for f in _part(found, "input", "eager:fp32", "vehicle").findings)
    assert (found.outcome, found.exit_code) == ("PASS", 0)
    strict = verify(replace(order, margins={}, total_margins={"moved": 1e-9}), quiet=True)
    assert (strict.outcome, strict.exit_code) == ("FAIL", 1)
    free = verify(replace(order, margins={}), quiet=True)
    assert (free.outcome, free.exit_code) == ("NOT JUDGED", 0)


def test_flips_and_tensors_stand_beside(found) -> None:
    part = _part(found, "input", "eager:fp32", "vehicle")
    assert part.flips.samples == 60
    assert 0 < part.tensors[0].snr_db < 60
    assert _part(found, "arithmetic", "onnxruntime:fp32", "train").flips.harmful.estimate == 0


def test_a_second_run_computes_nothing_again(found, order, monkeypatch) -> None:
    monkeypatch.setattr(cells.Cells, "_run", lambda *_: pytest.fail("computed again"))
    again = verify(order, quiet=True)
    assert again.cells == found.cells


def test_results_can_be_read_by_machines_and_people(found, order, tmp_path) -> None:
    record = to_json(found, [])
    path = tmp_path / "verify.json"
    path.write_text(json.dumps(record, allow_nan=False))
    moved = changes(found, read_baseline(path))
    assert moved
    assert all(change.before == change.after and change.within_floor for change in moved)
    said = text(found, moved)
    assert said.startswith("PASS: tiny")
    assert "bf16 (emulated)" in said
    html = page(found, moved)
    assert "the input is to blame" in html
    assert html.count("<h3>") > 6
    for secret in (str(order.out), str(order.source.weights), "http://", "https://"):
        assert secret not in html
        assert secret not in path.read_text()
    with pytest.raises(InputError, match="is no verification"):
        read_baseline(order.source.weights)


def test_what_came_back_from_the_target_is_a_subject(order, translated, tmp_path, monkeypatch) -> None:
    model, task = order.source.model, order.source.task
    with cells.Cells(replace(order, subjects=()), cells.Progress(quiet=True)) as data:
        batches = [task.inputs(data.batch("report", name)) for name in ("train", "vehicle")]
    graph = export_onnx(model, tuple(x[:2] for x in batches[0]), translated).path
    kit = write_kit(tmp_path / "kit", graph, batches)
    out = tmp_path / "outputs.npz"
    record.main(["--onnxruntime", str(graph), "--kit", str(kit), "--out", str(out), "--batch", "8"])
    found = verify(replace(order, subjects=("eager:fp32",), recorded=(out,), sequences=""), quiet=True)
    assert [ran.name for ran in found.subjects] == ["eager:fp32", "recorded:fp32 of outputs.npz"]
    part = _part(found, "arithmetic", "recorded:fp32 of outputs.npz", "vehicle")
    assert part.findings[1].interval.estimate < 1e-4
    assert (found.outcome, found.exit_code) == ("PASS", 0)
    # Where the target does not say what it executed, nothing passes.
    (tmp_path / "theirs.py").write_text(RUNTIME.format(graph=graph))
    monkeypatch.chdir(tmp_path)
    record.main(["--function", "theirs:run", "--kit", str(kit), "--out", str(out), "--batch", "8"])
    found = verify(replace(order, subjects=("eager:fp32",), recorded=(out,), sequences=""), quiet=True)
    assert (found.outcome, found.exit_code) == ("INCONCLUSIVE", 3)


def test_a_graph_from_elsewhere_is_a_subject(order, translated, tmp_path) -> None:
    graph = export_onnx(order.source.model, (torch.rand(2, 1, 8, 16),), translated).path
    model = onnx.load(graph)
    weight = next(entry for entry in model.graph.initializer if entry.name == "head.weight")
    weight.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weight), weight.name))
    onnx.save(model, tmp_path / "theirs.onnx")
    asked = replace(order, subjects=("eager:fp32",), graphs=(tmp_path / "theirs.onnx",), sequences="")
    found = verify(asked, quiet=True)
    assert found.outcome == "FAIL"
    assert "the arithmetic is to blame" in found.sentence


def test_names_that_are_not_there_are_answered_with_the_nearest(order) -> None:
    with pytest.raises(InputError, match="did you mean 'vehicle'"):
        verify(replace(order, preprocessing=("train", "vehicel")), quiet=True)
    with pytest.raises(InputError, match="did you mean 'moved'"):
        verify(replace(order, margins={"move": 1.0}), quiet=True)
    empty = replace(order, subjects=())
    with cells.Cells(empty, cells.Progress(quiet=True)) as data, pytest.raises(InputError, match="no split 'nowhere'"):
        data.batch("nowhere", "train")


def test_margins_are_written_as_pairs() -> None:
    assert read_margins(["a=0.5", "b=1e-3"]) == {"a": 0.5, "b": 1e-3}
    for wrong in ("a", "a=", "a=x", "a=0", "a=-1"):
        with pytest.raises(InputError, match="is no margin"):
            read_margins([wrong])


def test_weights_of_another_model_or_of_no_task_are_refused(weights, task, tmp_path) -> None:
    with pytest.raises(InputError, match="lies in no run folder"):
        load_source(weights)
    with pytest.raises(InputError, match="are not weights of task 'lanes'"):
        load_source(weights, "lanes")
    (tmp_path / "study.json").write_text('{"name": "old"}')
    old = tmp_path / "last.safetensors"
    old.write_bytes(weights.read_bytes())
    with pytest.raises(InputError, match="another version"):
        load_source(old)


def test_a_run_folder_names_its_task(weights, task, tmp_path) -> None:
    place, _, name = task.rpartition(":")
    study = {"name": "tiny", "task": f"{Path(place).name}:{name}", "recipes": {"baseline": {}}}
    (tmp_path / "study.json").write_text(json.dumps({"study": study, "base": str(Path(place).parent)}))
    (tmp_path / "weights" / "abc").mkdir(parents=True)
    path = tmp_path / "weights" / "abc" / "last.safetensors"
    path.write_bytes(weights.read_bytes())
    source = load_source(path)
    assert source.task.name == "tiny"
    assert source.about["recipe"] == "plain"


def test_an_interrupted_run_goes_on_where_it_stopped(order, translated, tmp_path, monkeypatch) -> None:
    asked = replace(order, out=tmp_path, subjects=("eager:fp32", "emulated:bf16"), sequences="")
    original, ran = cells.Cells._run, []

    def interrupted(self, subject, inputs, label):
        if len(ran) == 3:
            raise KeyboardInterrupt
        ran.append(label)
        return original(self, subject, inputs, label)

    monkeypatch.setattr(cells.Cells, "_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        verify(asked, quiet=True)
    monkeypatch.setattr(cells.Cells, "_run", lambda *given: ran.append(given[-1]) or original(*given))
    found = verify(asked, quiet=True)
    assert len(ran) == len(set(ran)) == 4  # two subjects under two pipelines, each once
    monkeypatch.undo()
    whole = verify(replace(asked, out=tmp_path / "whole"), quiet=True)
    assert found.cells == whole.cells
    assert found.compared == whole.compared


def test_hazards_are_told_where_something_runs_in_fp16(order, translated, monkeypatch) -> None:
    hazard = Hazard(rule="decomposed_norm", severity="error", node="node_pow", reason="squares overflow", fix="keep it")
    monkeypatch.setattr(run, "lint", lambda graph: [hazard, replace(hazard, severity="warning", node="node_resize")])
    asked = replace(order, out=order.out, subjects=("eager:fp32", "emulated:fp16"), sequences="", margins={})
    found = verify(asked, quiet=True)
    assert found.hazards == (hazard,)
    assert "decomposed_norm at node_pow: squares overflow; keep it" in text(found, [])
    assert "decomposed_norm at node_pow" in page(found, [])
    assert verify(replace(asked, subjects=("eager:fp32", "emulated:bf16")), quiet=True).hazards == ()
