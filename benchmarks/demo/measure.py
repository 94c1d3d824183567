"""Wall time, CPU time and peak memory of `holdfast demo` from an empty run folder.

python benchmarks/demo/measure.py [repeats] > benchmarks/demo/log.txt
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from holdfast.core.fingerprint import environment


def family(pid: int) -> list[int]:
    """A process and everything it started."""
    children = [int(c) for task in Path(f"/proc/{pid}/task").glob("*/children") for c in _read(task).split()]
    return [pid, *(found for child in children for found in family(child))]


def proportional_mib(pid: int) -> float:
    """Memory of a process, shared pages divided among those that share them."""
    for line in _read(Path(f"/proc/{pid}/smaps_rollup")).splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it ended in the meantime
        return ""


def run_once() -> tuple[float, float, float]:
    """Wall seconds, CPU seconds, peak MiB of one run."""
    with tempfile.TemporaryDirectory() as folder:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began, peak = time.monotonic(), 0.0
        command = [sys.executable, "-m", "holdfast", "demo", "--out", f"{folder}/demo", "--quiet"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while process.poll() is None:
            peak = max(peak, sum(proportional_mib(pid) for pid in family(process.pid)))
            time.sleep(0.5)
        wall = time.monotonic() - began
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert process.returncode == 0, "the demo failed"
        return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, peak


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    print({key: value for key, value in environment().items() if key != "time"})
    print(f"load average before: {os.getloadavg()[0]:.2f}")
    rows = []
    for i in range(repeats):
        rows.append(run_once())
        print("run {}: wall {:.0f} s, CPU {:.0f} s, peak memory {:.0f} MiB".format(i, *rows[-1]), flush=True)
    print(
        "median: wall {:.0f} s, CPU {:.0f} s, peak memory {:.0f} MiB".format(
            *map(statistics.median, zip(*rows, strict=True))
        )
    )


if __name__ == "__main__":
    main()
