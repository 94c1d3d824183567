"""ONNX files with habits of other exporters: they open, or are refused with what was wanted and what was given."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from holdfast.core.errors import InputError
from holdfast.deploy.foreign import inputs_of, open_foreign
from holdfast.deploy.ort import open_session

WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3) / 6
X = torch.linspace(-1, 1, 15).view(5, 3)
WANTED = X @ torch.from_numpy(WEIGHT).T


def graph_file(
    path: Path, *, batch: int | str = "n", dtype: int = TensorProto.FLOAT, opset: int = 9, repeated: bool = False,
    extra: bool = False, twice: bool = False,
) -> Path:  # fmt: skip
    """``y = x W^T``, written as old exporters did."""
    inputs = [helper.make_tensor_value_info("x", dtype, [batch, 3])]
    if repeated:
        inputs.append(helper.make_tensor_value_info("w", dtype, [2, 3]))
    if extra:
        inputs.append(helper.make_tensor_value_info("size", TensorProto.INT64, [2]))
    nodes = [helper.make_node("Gemm", ["x", "w", "zero"], ["y"], transB=1)]
    outputs = [helper.make_tensor_value_info("y", dtype, [batch, 2])]
    if twice:
        nodes.append(helper.make_node("Neg", ["y"], ["z"]))
        outputs.append(helper.make_tensor_value_info("z", dtype, [batch, 2]))
    kind = np.float16 if dtype == TensorProto.FLOAT16 else np.float32
    weights = [numpy_helper.from_array(WEIGHT.astype(kind), "w"), numpy_helper.from_array(np.zeros(2, kind), "zero")]
    if repeated:
        inputs.append(helper.make_tensor_value_info("zero", dtype, [2]))
    made = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs, weights), opset_imports=[helper.make_opsetid("", opset)],
        ir_version=3 if repeated else 6,
    )  # fmt: skip
    onnx.save(made, path)
    return path


@pytest.mark.parametrize("opset", [9, 11, 18])
@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("batch", ["n", 1, 2, 5])
def test_old_opsets_repeated_weights_and_fixed_batches_open(
    tmp_path: Path, batch: int | str, repeated: bool, opset: int
) -> None:
    subject = open_foreign(graph_file(tmp_path / "g.onnx", batch=batch, repeated=repeated, opset=opset), (X[:2],))
    torch.testing.assert_close(subject.run(X), WANTED)
    assert ("2 weights repeated as inputs" in subject.notes[0]) == repeated
    assert (f"batches of {batch}" in subject.notes[0]) == isinstance(batch, int)
    assert f"opset {opset}" in subject.notes[0]


def test_half_precision_takes_and_gives_fp32_and_says_what_runs(tmp_path: Path) -> None:
    subject = open_foreign(graph_file(tmp_path / "g.onnx", dtype=TensorProto.FLOAT16), (X[:2],))
    outputs = subject.run(X)
    assert outputs.dtype == torch.float32
    torch.testing.assert_close(outputs, WANTED, atol=2e-3, rtol=2e-3)
    assert subject.precision == "fp16"
    assert subject.executed.startswith("fp32")


def test_extra_inputs_are_refused_with_both_sides_named(tmp_path: Path) -> None:
    path = graph_file(tmp_path / "g.onnx", extra=True)
    with pytest.raises(InputError, match=r"wants 2 inputs \(x float32 \(\?, 3\); size int64 \(2\)\), the task gives 1"):
        open_foreign(path, (X[:2],))
    with pytest.raises(InputError, match=r"the task gives 1 \(float32 \(\?, 4\)\)"):
        open_foreign(graph_file(tmp_path / "h.onnx"), (torch.rand(2, 4),))
    with pytest.raises(InputError, match=r"the task gives 1 \(uint8 \(\?, 3\)\)"):
        open_foreign(graph_file(tmp_path / "h.onnx"), (X[:2].byte(),))


def test_outputs_nest_as_those_of_the_model_where_their_number_fits(tmp_path: Path) -> None:
    path = graph_file(tmp_path / "g.onnx", twice=True)
    assert isinstance(open_foreign(path, (X[:2],)).run(X), tuple)
    named = open_foreign(path, (X[:2],), like={"a": X, "b": X}).run(X)
    torch.testing.assert_close(named["b"], -WANTED)
    assert isinstance(open_foreign(path, (X[:2],), like=X).run(X), tuple)


def test_a_graph_that_mixes_its_samples_is_refused(tmp_path: Path) -> None:
    made = helper.make_model(
        helper.make_graph(
            [helper.make_node("ReduceMean", ["x"], ["y"], axes=[0])], "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
        ), opset_imports=[helper.make_opsetid("", 11)], ir_version=6,
    )  # fmt: skip
    onnx.save(made, tmp_path / "g.onnx")
    with pytest.raises(InputError, match="first dimension of every output is the sample"):
        open_foreign(tmp_path / "g.onnx", (X[:2],))


def test_the_face_detector_of_2019_opens() -> None:
    path = Path(os.environ.get("HOLDFAST_DATA", "data")) / "models" / "face_slim320_without_postprocessing.onnx"
    if not path.is_file():
        pytest.skip("needs models/ in HOLDFAST_DATA")
    assert [entry.shape for entry in inputs_of(open_session(path, threads=1))] == [(1, 3, 240, 320)]
    x = torch.rand(3, 3, 240, 320, generator=torch.Generator().manual_seed(0))
    subject = open_foreign(path, (x[:2],))
    scores, boxes = subject.run(x)
    assert scores.shape == (3, 4420, 2)
    assert boxes.shape == (3, 4420, 4)
    torch.testing.assert_close(scores.sum(-1), torch.ones(3, 4420))
    torch.testing.assert_close(subject.run(x[2:])[0], scores[2:])
    assert "opset 9" in subject.notes[0]
    assert "repeated as inputs" in subject.notes[0]
    with pytest.raises(InputError, match="float32 \\(1, 3, 240, 320\\)"):
        open_foreign(path, (torch.rand(2, 3, 320, 240),))
