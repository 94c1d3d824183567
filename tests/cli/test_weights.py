from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from holdfast.cli.main import main
from holdfast.weights import files


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return int(end.value.code or 0)


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    shared = torch.randn(4, 3)
    return {"a": shared, "b": shared, "bn.running_mean": torch.zeros(3), "n": torch.tensor(2)}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_info_shows_classes_metadata_and_what_is_not_finite(
    tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = state() | {"c": torch.tensor([1.0, float("nan")])}
    files.save(tmp_path / f"w{suffix}", broken, {"average": "ema", "decay": 0.9})
    assert run("weights", "info", tmp_path / f"w{suffix}", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["classes"] == {"parameter": 2, "tied": 1, "batchnorm": 1, "integer": 1}
    assert facts["metadata"]["average"] == "ema"
    assert facts["not_finite"] == ["c"]
    assert facts["dtypes"] == {"float32": 4, "int64": 1}
    assert len(facts["sha256"]) == 64
    assert run("weights", "info", tmp_path / f"w{suffix}") == 0
    assert "average: ema" in capsys.readouterr().out


def test_diff_tells_the_same_from_the_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files.save(tmp_path / "a.safetensors", state())
    files.save(tmp_path / "same.pt", state())
    files.save(tmp_path / "b.safetensors", state() | {"a": state()["a"] * 2, "n": torch.tensor(3)})
    assert run("weights", "diff", tmp_path / "a.safetensors", tmp_path / "same.pt") == 0
    assert "identical: True" in capsys.readouterr().out
    assert run("weights", "diff", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--json") == 1
    facts = json.loads(capsys.readouterr().out)
    assert facts["changed_entries"] == 2
    assert facts["most_changed"]["a"]["relative"] == pytest.approx(1.0)


def test_diff_names_missing_and_reshaped_entries(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files.save(tmp_path / "a.pt", {"x": torch.zeros(2), "y": torch.zeros(2), "z": torch.zeros(2)})
    files.save(tmp_path / "b.pt", {"x": torch.zeros(3), "y": torch.zeros(2).half(), "w": torch.zeros(2)})
    assert run("weights", "diff", tmp_path / "a.pt", tmp_path / "b.pt", "--json") == 1
    facts = json.loads(capsys.readouterr().out)
    assert (facts["only_in_first"], facts["only_in_second"]) == (["z"], ["w"])
    assert len(facts["reshaped"]) == 2


def test_files_without_a_common_entry_cannot_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files.save(tmp_path / "a.pt", {"x": torch.zeros(2)})
    files.save(tmp_path / "b.pt", {"y": torch.zeros(2)})
    assert run("weights", "diff", tmp_path / "a.pt", tmp_path / "b.pt") == 2
    assert "no entry in common" in capsys.readouterr().err


def test_wrong_use_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files.save(tmp_path / "a.pt", {"x": torch.zeros(2)})
    assert run("weights", "diff", tmp_path / "a.pt") == 2
    assert "name 2" in capsys.readouterr().err
    (tmp_path / "junk.pt").write_bytes(b"junk")
    assert run("weights", "info", tmp_path / "junk.pt") == 2
    error = capsys.readouterr().err
    assert "junk.pt" in error
    assert "weights_only" not in error


def test_third_party_files_go_through_info_diff_and_average(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = Path(os.environ.get("HOLDFAST_DATA", "../shared/data")) / "models"
    if not models.is_dir():
        pytest.skip(f"no third-party models at {models}")
    for name, values in (("cifar10_resnet20_akamaster.th", 271_098), ("face_slim320.pth", 264_757)):
        assert run("weights", "info", models / name, "--json") == 0
        assert json.loads(capsys.readouterr().out)["values"] == values
        out = tmp_path / f"{name}.safetensors"
        assert run("average", models / name, models / name, "--out", out) == 0
        capsys.readouterr()
        assert run("weights", "diff", models / name, out) == 0
        capsys.readouterr()
