from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from fake_tensorrt import Memory, package, plan_of
from safetensors.numpy import save_file

from holdfast.core.contracts import PrecisionPlan
from holdfast.core.errors import BackendError, InputError
from holdfast.deploy.backends.recorded import Recorded
from holdfast.deploy.export import export_onnx
from holdfast.deploy.recording import read_recording, sample_keys, write_kit
from holdfast.deploy.subjects import subject_of
from holdfast.deploy.target import record


@pytest.fixture
def model(conv_net):
    return conv_net(0)


@pytest.fixture
def kit(model, images, graphs, tmp_path):
    graph = export_onnx(model, (images[:2],), graphs).path
    return write_kit(tmp_path / "kit", graph, [(images[:4],), (images[4:],)], about={"task": "lanes"})


def _subject(path, precision: str, model):
    backend = Recorded(path=str(path))
    assert backend.probe().ok
    artefact = backend.prepare(model, (), PrecisionPlan(default=precision), None, path.parent)
    return subject_of(backend, artefact, model)


def test_the_kit_runs_without_holdfast_and_comes_back(kit, model, images, tmp_path) -> None:
    assert sorted(path.name for path in kit.iterdir()) == ["inputs.npz", "kit.json", "model.onnx", "record.py"]
    source = (kit / "record.py").read_text()
    assert "import holdfast" not in source
    assert "from holdfast" not in source
    out = tmp_path / "outputs.npz"
    command = [sys.executable, "record.py", "--onnxruntime", "model.onnx", "--batch", "4", "--device", "bench", "--out"]
    done = subprocess.run([*command, str(out)], cwd=kit, capture_output=True, text=True, check=True)
    assert "6 samples" in done.stdout
    subject = _subject(out, "fp32", model)
    assert (subject.name, subject.executed) == ("recorded:fp32", "fp32 (recorded)")
    assert "bench" in subject.notes[0]
    assert subject.notes[-1].startswith("model ")
    shuffled = images[[5, 0, 3]]
    expected, got = model(shuffled), subject.run(shuffled)
    assert list(got) == ["scores", "features"]
    torch.testing.assert_close(got["scores"], expected["scores"])
    with pytest.raises(BackendError, match="1 of 2 samples were not recorded"):
        subject.run(torch.stack([images[0], images[0] + 1]))
    subject.close()
    with pytest.raises(BackendError, match="closed"):
        subject.run(images)


def test_the_same_arrays_may_come_back_as_safetensors(kit, model, images, tmp_path) -> None:
    record.main(["--onnxruntime", str(kit / "model.onnx"), "--kit", str(kit), "--out", str(tmp_path / "outputs.npz")])
    with np.load(tmp_path / "outputs.npz") as archive:
        arrays = {name: archive[name] for name in archive.files if name != "about"}
        about = str(archive["about"])
    path = tmp_path / "outputs.safetensors"
    save_file(arrays, path, metadata={"about": about})
    replayed = [_subject(p, "fp32", model).run(images)["scores"] for p in (path, tmp_path / "outputs.npz")]
    assert torch.equal(*replayed)
    save_file(arrays, path)
    with pytest.raises(InputError, match="is no recording"):
        read_recording(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(InputError, match="is no recording"):
        read_recording(path)


def test_a_function_of_the_user_is_recorded_by_output_name(kit, model, images, tmp_path, monkeypatch) -> None:
    (tmp_path / "my_runtime.py").write_text(
        "import numpy as np\n"
        "def run(inputs):\n"
        "    n = len(inputs['image'])\n"
        f"    return {{name: np.full((n, 2), i, np.float16) for i, name in enumerate({_outputs(kit)[::-1]})}}\n"
    )
    monkeypatch.chdir(tmp_path)
    arguments = ["--function", "my_runtime:run", "--precision", "int8", "--executed", "int8", "--kit", str(kit)]
    record.main(arguments)
    subject = _subject(tmp_path / "outputs.npz", "int8", model)
    assert subject.executed == "int8 (recorded)"
    outputs = subject.run(images)
    assert outputs["scores"].dtype is torch.float32
    assert outputs["scores"].unique().tolist() == [1.0]
    assert outputs["features"].unique().tolist() == [0.0]


def _outputs(kit) -> list[str]:
    return json.loads((kit / "kit.json").read_text())["outputs"]


@pytest.mark.parametrize("version", ["10.3.0", "11.4.0"])
def test_an_engine_says_what_it_executes(kit, model, images, tmp_path, monkeypatch, version) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", package(version))
    memory = Memory()
    monkeypatch.setattr(record, "CudaMemory", lambda: memory)
    graph = onnx.load(kit / "model.onnx")
    engine = tmp_path / "model.engine"
    engine.write_bytes(plan_of(graph, version=int(version.split(".")[0]), precision="fp16"))
    out = tmp_path / "outputs.npz"
    record.main(["--tensorrt", str(engine), "--precision", "fp16", "--kit", str(kit), "--out", str(out)])
    subject = _subject(out, "fp16", model)
    assert subject.executed == "fp16 (recorded)"
    assert f"tensorrt {version}" in subject.notes[0]
    torch.testing.assert_close(subject.run(images)["scores"], model(images)["scores"])
    assert memory.held == {}


def test_an_engine_without_details_is_unknown(kit, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", package())
    engine = tmp_path / "model.engine"
    engine.write_bytes(plan_of(onnx.load(kit / "model.onnx"), detailed=False))
    runtime = record.TensorRT(str(engine), Memory())
    assert runtime.executed == "unknown"
    assert "verbosity" in runtime.detail["tensors"]
    engine.write_bytes(b"another version's")
    with pytest.raises(SystemExit, match="cannot read"):
        record.TensorRT(str(engine), Memory())


@pytest.mark.parametrize(
    ("tensor", "precision"),
    [
        ({"Format/Datatype": "Channel major FP16 format where C % 8 == 0"}, "fp16"),
        ({"Format/Datatype": "Row major Int8 format"}, "int8"),
        ({"Format": "Linear", "DataType": "BF16"}, "bf16"),
        ({"Name": "x", "DataType": "FP32"}, "fp32"),
        ({"Name": "half"}, "unknown"),
    ],
)
def test_precisions_are_read_from_the_inspector(tensor: dict[str, str], precision: str) -> None:
    assert record.precision_of(tensor) == precision


def test_equal_samples_are_sent_once(model, images, graphs, tmp_path) -> None:
    graph = export_onnx(model, (images[:2],), graphs).path
    kit = write_kit(tmp_path / "kit", graph, [(images[[0, 1, 0]],)], with_model=False)
    assert json.loads((kit / "kit.json").read_text())["samples"] == 2
    assert not (kit / "model.onnx").exists()
    with pytest.raises(InputError, match=r"0 batches for inputs \['image'\]"):
        write_kit(tmp_path / "kit", graph, [])


def test_samples_are_named_by_content_and_not_by_layout(images) -> None:
    keys = sample_keys((images,))
    assert len(set(keys)) == 6
    assert sample_keys((images.to(memory_format=torch.channels_last),)) == keys
    assert sample_keys((images[2:4],)) == keys[2:4]
    assert sample_keys((images.double(),))[0] != keys[0]
    assert sample_keys((images, images))[0] != keys[0]


def test_what_is_no_recording_is_refused(kit, tmp_path) -> None:
    missing, junk, bare, short = (tmp_path / f"{name}.npz" for name in ("missing", "junk", "bare", "short"))
    junk.write_bytes(b"PK\x03\x04 torn")
    np.savez(bare, index=np.zeros((2, 16), np.uint8), about=np.array("{}"), output_0=np.zeros((2, 3)))
    about = dict.fromkeys(("kit", "layout", "runtime", "device", "precision", "executed", "time"), "")
    about["format"] = record.FORMAT
    np.savez(short, index=np.zeros((2, 16), np.uint8), about=np.array(json.dumps(about)), output_0=np.zeros((3, 3)))
    for path, message in [
        (missing, "no such file"),
        (junk, "is no recording"),
        (bare, "provenance: format"),
        (short, "2 samples"),
    ]:
        with pytest.raises(InputError, match=message):
            read_recording(path)
        assert not Recorded(path=str(path)).probe().ok
    assert "set its option" in Recorded().probe().reason


def test_a_recording_with_pickled_objects_is_not_opened(tmp_path) -> None:
    np.savez(tmp_path / "x.npz", about=np.array([{"a": 1}], dtype=object), index=np.zeros((1, 16), np.uint8))
    with pytest.raises(InputError, match="is no recording"):
        read_recording(tmp_path / "x.npz")


def test_another_precision_than_the_recorded_is_refused(kit, model, tmp_path) -> None:
    out = tmp_path / "outputs.npz"
    record.main(["--onnxruntime", str(kit / "model.onnx"), "--kit", str(kit), "--out", str(out)])
    with pytest.raises(BackendError, match="no precision 'fp16'"):
        Recorded(path=str(out)).prepare(model, (), PrecisionPlan(default="fp16"), None, tmp_path)


def test_a_runtime_that_gives_something_else_stops_with_one_line(kit, tmp_path, monkeypatch) -> None:
    (tmp_path / "broken_runtime.py").write_text(
        "import numpy as np\n"
        "def few(inputs): return [np.zeros((1, 2))]\n"
        "def scalar(inputs): return [np.float32(1), np.float32(2)]\n"
        "def names(inputs): return {'a': 1}\n"
    )
    monkeypatch.chdir(tmp_path)
    for name, message in [("few", "1 outputs, expected"), ("scalar", "for a batch of 1"), ("names", "no outputs")]:
        with pytest.raises(SystemExit, match=message):
            record.main(["--function", f"broken_runtime:{name}", "--kit", str(kit)])
    assert not (tmp_path / "outputs.npz").exists()
