from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from holdfast.cli.main import main
from holdfast.cli.studies import default_workers, find_study, use_data
from holdfast.core.errors import InputError

TOY = Path(__file__).parents[1] / "study" / "toy_task.py"
STUDY = {
    "name": "toy",
    "task": "toy_task.py:make",
    "training": {"epochs": 1, "batch_size": 16},
    "recipes": {"baseline": {}},
    "preprocessing": ["train", "coarse"],
    "gates": [{"name": "small", "metric": "error", "preprocessing": "coarse", "max": 10.0}],
}


def holdfast(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "holdfast", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a study was run from the command line."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    shutil.copy(TOY, folder)
    done = holdfast("run", "study.yaml", "--workers", "1", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "eager" in done.stdout
    assert f"report: {folder / 'runs' / 'toy' / 'report.html'}" in done.stdout
    return folder


def test_the_same_command_does_nothing_twice_and_answers_as_json(run_folder: Path) -> None:
    rows = run_folder / "runs" / "toy" / "rows.jsonl"
    before = rows.read_bytes()
    done = holdfast("run", "study.yaml", "--workers", "1", "--json", "--quiet", cwd=run_folder)
    answer = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert answer["exit_code"] == 0
    assert answer["gates"][0]["gate"]["name"] == "small"
    assert Path(answer["report"]).is_file()
    assert rows.read_bytes() == before


def test_the_report_is_written_again_from_the_rows(run_folder: Path) -> None:
    report = run_folder / "runs" / "toy" / "report.html"
    before = report.read_bytes()
    report.unlink()
    task = run_folder / "toy_task.py"
    text = task.read_text()
    task.write_text(text + "# What was measured stays measured when the source changes.\n")
    done = holdfast("report", "runs/toy", cwd=run_folder)
    task.write_text(text)
    assert (done.returncode, done.stderr) == (0, "")
    assert report.read_bytes() == before
    assert holdfast("report", "runs", cwd=run_folder).stderr.startswith("holdfast: runs: is no run folder")


def test_a_failed_gate_ends_with_1(run_folder: Path) -> None:
    gates = [{**STUDY["gates"][0], "max": 1e-9}]  # type: ignore[index]  # a dictionary of mixed values
    (run_folder / "strict.yaml").write_text(yaml.safe_dump({**STUDY, "gates": gates}))
    done = holdfast("run", "strict.yaml", "--out", "runs/toy", "--workers", "1", "--quiet", cwd=run_folder)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": {}}, "bad.yaml: unknown key 'recipe' (did you mean 'recipes'?)"),
        ({"task": "absent.py:make"}, "absent.py: no such task file"),
        ({"task": "toy_task.py:mak"}, "has no 'mak' (did you mean 'make'?)"),
        ({"preprocessing": ["train", "coarser"]}, "no pipeline 'coarser'"),
        (
            {"recipes": {"baseline": {"methods": ["adversaria"]}}},
            "no method 'adversaria' (did you mean 'adversarial'?)",
        ),
        ({"probes": [{"deployment": {"splitz": []}}]}, "unknown option 'splitz' (did you mean 'splits'?)"),
    ],
)
def test_bad_input_is_one_line_and_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, object], message: str
) -> None:
    shutil.copy(TOY, tmp_path)
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump({**STUDY, **change}))
    with pytest.raises(SystemExit) as end:
        main(["run", str(path), "--out", str(tmp_path / "out"), "--quiet"])
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert said.count("\n") == 1
    assert said.startswith("holdfast: ")
    assert message in said


def test_an_unwritable_run_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY))
    (tmp_path / "out").write_text("a file")
    with pytest.raises(SystemExit) as end:
        main(["run", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "out"), "--quiet"])
    assert end.value.code == 2
    assert f"holdfast: {tmp_path / 'out'}: cannot be written" in capsys.readouterr().err


def test_studies_are_found_by_path_or_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_study("demo").name == "demo.yaml"
    monkeypatch.chdir(tmp_path)
    Path("demo").write_text("name: mine")
    assert find_study("demo") == Path("demo"), "a file goes before a shipped study"
    with pytest.raises(InputError, match=r"absent: no such study file, nor a shipped study \(one of: demo"):
        find_study("absent")


def test_the_data_folder_reaches_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_DATA", "before")
    use_data(None)
    assert os.environ["HOLDFAST_DATA"] == "before"
    use_data(tmp_path)
    assert os.environ["HOLDFAST_DATA"] == str(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        use_data(tmp_path / "absent")


def test_one_worker_a_core() -> None:
    assert 1 <= default_workers() <= (os.cpu_count() or 1)
