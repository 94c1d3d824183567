"""``holdfast export``: raw weights are not exported in silence where an average lies beside them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny_task
import torch

from holdfast.cli.main import main
from holdfast.weights import files
from holdfast.weights.ema import EMA


def export(weights: Path, out: Path) -> int:
    with pytest.raises(SystemExit) as end:
        main(["export", str(weights), "--out", str(out), "--task", f"{tiny_task.__file__}:tiny"])
    return int(end.value.code or 0)


def test_raw_weights_beside_an_average_are_exported_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    model = tiny_task.Finder()
    ema = EMA().start(model)
    ema.update(model)
    files.save(tmp_path / "last.safetensors", model.state_dict())
    files.save(tmp_path / "ema.safetensors", ema.weights(), ema.record())
    for name in ("last", "ema"):
        out = tmp_path / name / "model.onnx"
        out.parent.mkdir()
        assert export(tmp_path / f"{name}.safetensors", out) == 0
        warned = "raw weights, though an average exists" in capsys.readouterr().err
        passed_over = json.loads(out.with_suffix(".json").read_text())["weights"]["averages_passed_over"]
        assert warned == bool(passed_over) == (name == "last")
        shutil.rmtree(out.parent)
