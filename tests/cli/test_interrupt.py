from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from holdfast.core.store import RunFolder

TOY = Path(__file__).parents[1] / "study" / "toy_task.py"
STUDY = {
    "name": "toy",
    "task": f"{TOY}:make",
    "training": {"epochs": 400, "batch_size": 16},
    "recipes": {"baseline": {}, "other": {}},
}


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_ctrl_c_ends_at_once_with_one_line_and_leaves_a_folder_that_opens(tmp_path: Path) -> None:
    """As on a terminal, the signal goes to the command and to its workers."""
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY))
    process = subprocess.Popen(
        [sys.executable, "-m", "holdfast", "run", "study.yaml", "--out", "out", "--workers", "2", "--quiet"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    wait_until(lambda: any((tmp_path / "out" / "tables").rglob("*")) or process.poll() is not None, 120)
    os.killpg(process.pid, signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert errors == "holdfast: interrupted; run the same command to go on\n"
    wait_until(lambda: not alive(process.pid), 20)
    RunFolder(tmp_path / "out").close()


def alive(session: int) -> bool:
    try:
        os.killpg(session, 0)
    except ProcessLookupError:
        return False
    return True
