"""Subjects without gradients: ONNX files with habits of their own, and outputs that were recorded elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import planted_task
import pytest
import torch
from torch import Tensor

from holdfast.core.errors import InputError
from holdfast.data.table import sensor_batch
from holdfast.deploy.export import export_onnx
from holdfast.deploy.recording import write_kit
from holdfast.deploy.target import record
from holdfast.diagnose.order import Order
from holdfast.diagnose.run import Diagnosis, diagnose

Orders = Callable[..., Order]
FEW = ("clean", "deployment", "adversarial", "input_repair")


@pytest.fixture(scope="module")
def graph(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = planted_task.Net()
    model.load_state_dict(state)
    folder = tmp_path_factory.mktemp("graph")
    return export_onnx(model.eval(), (torch.rand(2, 3, 24, 24),), folder).path


def states(found: Diagnosis) -> dict[str, str]:
    return {entry.probe: entry.state for entry in found.entries}


def test_a_session_is_measured_and_attacked_through_its_twin(order_of: Orders, graph: Path) -> None:
    order = order_of(task={"vehicle": "resize"}, probes=FEW, limit=32)
    found, _ = diagnose(replace(order, path=graph, twin=order.path), workers=0, quiet=True)
    assert found.subject == "graph:fp32"
    assert set(states(found).values()) == {"ran"}
    attacked = [finding for finding in found.findings if finding.name == "pgd"]
    assert {finding.subject for finding in attacked} == {"eager:fp32", "graph:fp32"}
    transferred = next(finding for finding in attacked if finding.subject == "graph:fp32")
    assert "transferred" in transferred.flags
    assert len(transferred.curve) == 4
    assert transferred.baseline == next(row.value for row in found.rows if row.probe == "clean")
    assert {row.subject for row in found.rows if row.probe in ("clean", "input_repair")} == {"graph:fp32"}


def test_a_session_alone_says_what_it_cannot(order_of: Orders, graph: Path) -> None:
    order = order_of(probes=("clean", "adversarial"), limit=16)
    found, _ = diagnose(replace(order, path=graph), workers=0, quiet=True)
    assert states(found) == {"clean": "ran", "adversarial": "skipped"}
    assert "needs gradient" in found.entries[1].reason
    assert "--twin" in found.entries[1].reason


def test_recorded_outputs_are_measured_where_they_were_recorded(order_of: Orders, graph: Path, tmp_path: Path) -> None:
    order = order_of(probes=("clean", "deployment", "input_repair"))
    task = planted_task.make()
    data = task.data("report")
    batch = task.inputs(task.pipelines["train"](sensor_batch(data, range(len(data)))))
    kit = write_kit(tmp_path / "kit", graph, [batch])
    out = tmp_path / "outputs.npz"
    record.main(["--onnxruntime", str(graph), "--kit", str(kit), "--out", str(out), "--batch", "8"])
    found, _ = diagnose(replace(order, path=out), workers=0, quiet=True)
    assert found.subject == "recorded:fp32"
    assert states(found) == {"clean": "ran", "deployment": "ran", "input_repair": "skipped"}
    assert "were not recorded" in next(e.reason for e in found.entries if e.state == "skipped")
    [clean] = [row for row in found.rows if row.probe == "clean"]
    assert clean.value > 0.9


def test_a_graph_without_a_task_is_refused(graph: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give --task"):
        diagnose(Order(path=graph, task="", out=tmp_path / "out"), workers=0, quiet=True)


def test_a_graph_of_another_size_names_both(order_of: Orders, graph: Path, tmp_path: Path) -> None:
    model = onnx.load(graph)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 32
    del model.graph.value_info[:]
    onnx.save(model, tmp_path / "other.onnx")
    order = order_of(probes=("clean",))
    with pytest.raises(InputError, match=r"wants 1 inputs .*32.*the task gives 1 .*24"):
        diagnose(replace(order, path=tmp_path / "other.onnx"), workers=0, quiet=True)
