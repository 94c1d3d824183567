"""``kill -9`` at any moment, then the same command: nothing finished is repeated, and the bits are the same."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file

from holdfast.core.store import RunFolder
from holdfast.study.run import Outcome

COMMAND = [sys.executable, "-m", "holdfast", "run"]


def start(study: Path, out: Path) -> subprocess.Popen[bytes]:
    arguments = [*COMMAND, str(study), "--out", str(out), "--workers", "2", "--quiet"]
    return subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def kill_and_wait(process: subprocess.Popen[bytes]) -> None:
    """Kill the parent alone; its workers must follow by themselves before anything else is started."""
    children = [int(pid) for pid in _children(process.pid)]
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 20
    while any(_alive(pid) for pid in children):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.05)


def _children(pid: int) -> list[str]:
    return [c for task in Path(f"/proc/{pid}/task").glob("*/children") for c in task.read_text().split()]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def content(out: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Rows (without what may differ between runs: CPU time and the environment record) and weights."""
    folder = RunFolder(out, writer=False)
    rows = {}
    for row in folder.rows():
        if row.metric != "train_cpu":
            record = row.to_json() | {"provenance": ""}
            samples = record.pop("samples")
            assert samples
            key = json.dumps(record, sort_keys=True)
            assert key not in rows, "a row was written twice"
            rows[key] = folder.samples(row)[0]
    weights = {str(f.relative_to(out)): load_file(f) for f in sorted(out.glob("weights/*/*.safetensors"))}
    return rows, weights


def run_with_kills(study: Path, out: Path, moments: list[float]) -> None:
    for seconds in moments:
        process = start(study, out)
        try:
            process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            kill_and_wait(process)
    process = start(study, out)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors.decode()


def assert_same(out: Path, undisturbed: Path) -> None:
    (rows, weights), (expected_rows, expected_weights) = content(out), content(undisturbed)
    assert rows.keys() == expected_rows.keys()
    for key, values in rows.items():
        np.testing.assert_array_equal(values, expected_rows[key])
    assert weights.keys() == expected_weights.keys()
    for name, state in weights.items():
        for entry, value in state.items():
            assert value.equal(expected_weights[name][entry]), (name, entry)


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_runs_end_with_the_same_bits(
    tmp_path: Path, raw_study: dict[str, Any], finished: tuple[Path, Outcome], kills: int
) -> None:
    study, rng = tmp_path / "study.yaml", random.Random(kills)
    study.write_text(yaml.safe_dump(raw_study))
    # Starting takes some seconds and the whole run about twice that: the moments fall on all of it.
    run_with_kills(study, tmp_path / "run", [rng.uniform(2, 14) for _ in range(kills)])
    assert_same(tmp_path / "run", finished[0])
    assert not list((tmp_path / "run").rglob(".holdfast-tmp-*"))
