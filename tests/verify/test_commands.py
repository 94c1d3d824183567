"""The commands as their users call them, from weights to exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load_file

from holdfast.cli.main import main
from holdfast.deploy.export import export_onnx
from holdfast.deploy.ort import open_session, run_session
from holdfast.verify.order import load_source
from holdfast.weights import files


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return int(end.value.code or 0)


@pytest.fixture(scope="module")
def exported(weights, task, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("export") / "model.onnx"
    assert run("export", weights, "--task", task, "--out", out) == 0
    return out


# --- export ---------------------------------------------------------------------------------------------


def test_the_exported_file_computes_what_the_weights_do_and_says_what_it_is(exported, weights, task) -> None:
    model = load_source(weights, task).model
    for count in (1, 3):
        image = torch.rand(count, 1, 8, 16)
        (given,) = run_session(open_session(exported, threads=1), (image,))
        torch.testing.assert_close(given, model(image).detach(), atol=1e-5, rtol=1e-4)
    told = json.loads(exported.with_suffix(".json").read_text())
    assert told["graph"]["precision"] == "fp32"
    assert told["graph"]["folded"] == ["norm"]
    assert told["inputs"] == {"image": ["batch", 1, 8, 16]}
    assert (told["task"], told["preprocessing"], told["preprocessing_inside"]) == ("tiny", "train", False)
    assert told["weights"]["about"]["kind"] == "last"
    assert sorted(path.name for path in exported.parent.iterdir()) == ["model.json", "model.onnx"]


@pytest.mark.parametrize("precision", [pytest.param("fp16", marks=pytest.mark.slow), "int8"])
def test_lower_precisions_are_exported_near_the_model(precision: str, weights, task, tmp_path, capsys) -> None:
    out = tmp_path / "low.onnx"
    assert run("export", weights, "--task", task, "--out", out, "--precision", precision) == 0
    assert precision in capsys.readouterr().out
    image = torch.rand(4, 1, 8, 16)
    (given,) = run_session(open_session(out, threads=1), (image,))
    exact = load_source(weights, task).model(image).detach()
    assert 0 < (given - exact).abs().max() < 0.2


def test_export_refuses_what_it_cannot_do_in_one_line(weights, task, tmp_path, capsys) -> None:
    assert run("export", weights, "--task", task, "--precision", "fp8", "--out", tmp_path / "m.onnx") == 2
    assert run("export", weights, "--task", task, "--pipeline", "vehicel", "--out", tmp_path / "m.onnx") == 2
    assert run("export", tmp_path / "none.safetensors", "--task", task) == 2
    assert run("export", weights, "--task", task, "--inside", "--out", tmp_path / "m.onnx") == 2
    assert run("export", weights, "--task", task, "--inside", "--precision", "int8", "--out", tmp_path / "m.onnx") == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 5
    assert "no chain of steps" in said[3]
    assert "leave it outside" in said[4]
    assert "one of fp32, fp16, int8" in said[0]
    assert "did you mean 'vehicle'" in said[1]
    assert list(tmp_path.iterdir()) == []


# --- record-kit -----------------------------------------------------------------------------------------


def test_the_kit_runs_alone_and_its_outputs_are_verified(weights, task, tmp_path, capsys, warm) -> None:
    kit = tmp_path / "kit"
    assert run("record-kit", weights, "--task", task, "--out", kit, "--limit", 20) == 0
    said = capsys.readouterr().out
    assert "80 samples" in said  # 20 of two splits under two pipelines
    assert sorted(path.name for path in kit.iterdir()) == ["inputs.npz", "kit.json", "model.onnx", "record.py"]
    # As on the target: another folder, another process, nothing of holdfast.
    done = subprocess.run([sys.executable, "-I", "record.py", "--onnxruntime", "model.onnx"], cwd=kit,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert run("verify", weights, "--task", task, "--subject", "eager:fp32", "--recorded", kit / "outputs.npz",
               "--margin", "moved=0.01", "--out", warm(tmp_path / "verify"), "--quiet") == 0  # fmt: skip
    record = json.loads((tmp_path / "verify" / "verify.json").read_text())
    assert [ran["name"] for ran in record["subjects"]] == ["eager:fp32", "recorded:fp32 of outputs.npz"]
    assert record["outcome"] == "PASS"
    assert {finding["samples"] for part in record["compared"] for finding in part["findings"]} >= {20}


def test_a_kit_without_the_model_holds_no_weights(weights, task, tmp_path) -> None:
    kit = tmp_path / "kit"
    assert run("record-kit", weights, "--task", task, "--out", kit, "--limit", 4, "--no-with-model",
               "--split", "report", "--pipeline", "train") == 0  # fmt: skip
    assert sorted(path.name for path in kit.iterdir()) == ["inputs.npz", "kit.json", "record.py"]
    held = b"".join(path.read_bytes() for path in kit.iterdir())
    assert all(value.numpy().tobytes() not in held for value in load_file(weights).values() if value.numel() > 8)
    with np.load(kit / "inputs.npz") as archive:
        assert archive["input_0"].shape == (4, 1, 8, 16)


def test_a_split_that_is_not_there_is_refused(weights, task, tmp_path, capsys) -> None:
    assert run("record-kit", weights, "--task", task, "--out", tmp_path / "kit", "--split", "nowhere") == 2
    assert "no split 'nowhere'" in capsys.readouterr().err


# --- verify ---------------------------------------------------------------------------------------------


def test_verify_writes_both_reports_and_compares_with_an_earlier_run(weights, task, tmp_path, capsys, warm) -> None:
    out = warm(tmp_path / "first")
    asked = ("verify", weights, "--task", task, "--subject", "eager:fp32", "--subject", "emulated:fp16", "--limit", 30,
             "--sequences", "", "--quiet")  # fmt: skip
    assert run(*asked, "--margin", "moved=0.05", "--out", out) == 0
    assert "PASS: tiny" in capsys.readouterr().out
    assert run(*asked, "--margin", "moved=1e-7", "--out", out, "--baseline", out / "verify.json", "--json") == 1
    record = json.loads(capsys.readouterr().out)
    assert record["outcome"] == "FAIL"
    assert record["since_baseline"]
    assert all(change["within_floor"] for change in record["since_baseline"])
    html = (out / "verify.html").read_text()
    assert "FAIL" in html
    assert "<img" not in html
    assert "<image" not in html


def test_a_foreign_graph_is_verified_and_its_fault_is_named(exported, weights, task, tmp_path, capsys, warm) -> None:
    graph = onnx.load(exported)
    head = next(entry for entry in graph.graph.initializer if entry.name == "conv.weight")
    rounded = numpy_helper.to_array(head).astype(np.float16).astype(np.float32)
    head.CopyFrom(numpy_helper.from_array(rounded, head.name))
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        onnx.save(graph if folder == "a" else onnx.load(exported), tmp_path / folder / "engine.onnx")
    graphs = ("--onnx", tmp_path / "a" / "engine.onnx", "--onnx", tmp_path / "b" / "engine.onnx")
    asked = ("--subject", "eager:fp32", "--pipeline", "train", "--limit", 20, "--sequences", "", "--quiet")
    assert run("verify", weights, "--task", task, *graphs, *asked, "--out", warm(tmp_path / "out")) == 0
    said = capsys.readouterr().out
    assert "graph:fp32 of a/engine.onnx: rounded_weights at node_conv2d: weights are rounded to fp16" in said
    assert "graph:fp32 of b/engine.onnx: below the noise floor" in said
    html = (tmp_path / "out" / "verify.html").read_text()
    assert "rounded_weights at node_conv2d" in html
    assert str(tmp_path) not in html


def test_raw_weights_in_place_of_the_average_are_recognised(weights, task, translated, tmp_path, capsys, warm) -> None:
    state, about = files.load(weights)
    files.save(tmp_path / "last.safetensors", state, about)
    average = {name: value * 0.98 if value.is_floating_point() else value for name, value in state.items()}
    files.save(tmp_path / "ema.safetensors", average, {"kind": "ema"})
    model = load_source(tmp_path / "last.safetensors", task).model
    shipped = export_onnx(model, (torch.rand(2, 1, 8, 16),), translated).path
    asked = ("--subject", "eager:fp32", "--limit", 20, "--sequences", "", "--out", warm(tmp_path / "out"), "--quiet")
    assert run("verify", tmp_path / "ema.safetensors", "--task", task, "--onnx", shipped, *asked) == 0
    assert "these are the weights of last.safetensors" in capsys.readouterr().out


# --- repair ---------------------------------------------------------------------------------------------


def test_repair_says_when_nothing_needs_it_and_when_nothing_helps(weights, task, tmp_path, capsys, warm) -> None:
    out = warm(tmp_path / "repaired")
    assert run("repair", weights, "--task", task, "--margin", "moved=0.05", "--limit", 20, "--out", out, "--quiet") == 0
    assert "nothing needs repair" in capsys.readouterr().out
    assert json.loads((out / "plan.json").read_text())["default"] == "fp16"
    assert (out / "trtexec.txt").read_text() == "trtexec --onnx=model.onnx --fp16\n"
    assert run("repair", weights, "--task", task, "--margin", "jitter=1", "--out", out) == 2
    assert "no drift over samples 'jitter'" in capsys.readouterr().err


def test_repair_keeps_what_it_must_and_confirms_it_elsewhere(weights, task, tmp_path, capsys, warm) -> None:
    out = warm(tmp_path / "repaired")
    assert run("repair", weights, "--task", task, "--margin", "moved=0.0004", "--precision", "bf16", "--limit", 60,
               "--out", out, "--quiet", "--json") == 0  # fmt: skip
    record = json.loads(capsys.readouterr().out)
    assert record["before"]["outcome"] == "FAIL"
    assert record["after"]["outcome"] == "PASS"
    assert 0 < len(record["search"]["nodes"]) < record["nodes"]
    assert (record["searched"], record["confirmed"]) == ("train", "report")
    assert f'"{record["search"]["nodes"][0]}":fp32' in (out / "trtexec.txt").read_text()


def test_repair_writes_an_int8_graph_that_export_makes_again_from_the_plan(
    weights, task, tmp_path, capsys, warm
) -> None:
    out = warm(tmp_path / "repaired")
    assert run("repair", weights, "--task", task, "--margin", "moved=1e-5", "--precision", "int8", "--limit", 60,
               "--out", out, "--quiet", "--json") == 0  # fmt: skip
    record = json.loads(capsys.readouterr().out)
    assert record["before"]["interval"]["estimate"] > record["after"]["interval"]["estimate"]
    assert record["after"]["outcome"] == "PASS"
    assert run("export", weights, "--task", task, "--plan", out / "plan.json", "--out", tmp_path / "again.onnx") == 0
    image = torch.rand(4, 1, 8, 16)
    ours, again = (run_session(open_session(path, threads=1), (image,))[0]
                   for path in (out / "repaired.onnx", tmp_path / "again.onnx"))  # fmt: skip
    torch.testing.assert_close(ours, again, atol=2e-2, rtol=0)


# --- files that may come from anybody -------------------------------------------------------------------


def _cycle(graph: onnx.ModelProto) -> None:
    first, last = graph.graph.node[0], graph.graph.node[-1]
    graph.graph.node.append(onnx.helper.make_node("Add", [last.output[0], first.output[0]], ["round"], name="round"))
    first.input[0] = "round"


def _huge(graph: onnx.ModelProto) -> None:
    graph.graph.initializer.append(onnx.TensorProto(name="huge", data_type=1, dims=[2**20, 2**20]))


def _outside(graph: onnx.ModelProto) -> None:
    stored = graph.graph.initializer[0]
    stored.ClearField("raw_data")
    stored.data_location = onnx.TensorProto.EXTERNAL
    stored.external_data.add(key="location", value="../../secret")


@pytest.mark.parametrize(("spoil", "message"), [(_cycle, "is not valid"), (_huge, "constant 'huge' of shape"),
                                               (_outside, "lies outside of its folder")])  # fmt: skip
def test_a_hostile_graph_is_refused_by_verify(spoil, message: str, exported, weights, task, tmp_path, capsys) -> None:
    graph = onnx.load(exported)
    spoil(graph)
    path = tmp_path / "theirs.onnx"
    path.write_bytes(graph.SerializeToString())
    assert run("verify", weights, "--task", task, "--subject", "eager:fp32", "--onnx", path, "--quiet", "--out",
               tmp_path / "out") == 2  # fmt: skip
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert message in said


def test_a_report_can_be_given_away(exported, weights, task, tmp_path, warm) -> None:
    out = warm(tmp_path / "out")
    assert run("verify", weights, "--task", task, "--subject", "eager:fp32", "--onnx", exported, "--limit", 10,
               "--sequences", "", "--out", out, "--quiet") == 0  # fmt: skip
    for name in ("verify.json", "verify.html"):
        text = (out / name).read_text()
        assert str(tmp_path) not in text
        assert str(exported.parent) not in text
        assert "data:image/" not in text
        for value in load_file(weights).values():
            if value.is_floating_point():
                assert not {f"{number:.6g}" for number in value.flatten().tolist() if number not in (0, 1)} & set(
                    text.replace(",", " ").split()
                )
