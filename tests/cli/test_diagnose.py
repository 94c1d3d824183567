"""The command, from its arguments to files and exit code."""

from __future__ import annotations

import json
from pathlib import Path

import planted_task
import pytest
import torch

from holdfast.cli.main import main
from holdfast.weights import files

TASK = f"{planted_task.__file__}:make"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "last.pt"
    files.save(path, planted_task.Net().state_dict(), {"kind": "last"})
    return path


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main(["diagnose", *map(str, arguments), "--workers", "0", "--quiet"])
    return int(end.value.code or 0)


def test_results_are_written_and_printed(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    asked = (weights, "--task", TASK, "--out", out, "--probe", "clean", "--probe", "adversarial", "--limit", 12)
    assert run(*asked) == 0
    said = capsys.readouterr().out
    assert "last.pt as eager:fp32 on task stripes" in said
    assert f"report: {out / 'diagnosis.html'}" in said
    assert "what to do" not in said
    record = json.loads((out / "diagnosis.json").read_text())
    assert [entry["probe"] for entry in record["entries"]] == ["clean", "adversarial"]
    assert not (out / "study.yaml").exists()
    assert run(*asked, "--prescribe", "--tolerance", "0", "--json") in (0, 1)
    assert "treatments" in json.loads(capsys.readouterr().out)


def test_what_is_wrong_is_one_line_and_2(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(weights, "--out", tmp_path / "out") == 2
    assert "lies in no run folder" in capsys.readouterr().err
    assert run(weights, "--task", TASK, "--out", tmp_path / "out", "--probe", "cleen") == 2
    assert "no probe 'cleen' (did you mean 'clean'?)" in capsys.readouterr().err
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    assert run(tmp_path / "broken.onnx", "--task", TASK, "--out", tmp_path / "out") == 2
    assert "broken.onnx" in capsys.readouterr().err
