"""CPU time and memory of a uniform soup of 20 checkpoints, against one warm read of the same bytes.

OMP_NUM_THREADS=1 python benchmarks/soup_memory/measure.py FOLDER [millions] [rounds] > benchmarks/soup_memory/log.txt

Every measurement runs in a process of its own, contenders interleaved. 20 distinct files stand in FOLDER: 8 GB of fp32
at 100 M values, then 4 GB of bf16; all of it has to fit into the page cache.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from holdfast.core.fingerprint import environment
from holdfast.weights import files
from holdfast.weights.opened import sha256
from holdfast.weights.stream import average_files

COUNT, TENSORS = 20, 50
READS = (1 << 17, 1 << 20, 1 << 22)


def anonymous_kib() -> int:
    found = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


def write_files(folder: Path, millions: int, dtype: torch.dtype) -> list[Path]:
    name = str(dtype).removeprefix("torch.")
    paths = [folder / f"{name}-{millions}-{index}.safetensors" for index in range(COUNT)]
    for index, path in enumerate(paths):
        if not path.exists():
            generator = torch.Generator().manual_seed(index)
            each = millions * 1_000_000 // TENSORS
            state = {f"w{k}": torch.randn(each, generator=generator).to(dtype) for k in range(TENSORS)}
            files.save(path, state)
    return paths


def read(paths: list[Path], size: int) -> None:
    buffer = memoryview(bytearray(size))
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def one(task: str, paths: list[Path], out: Path) -> None:
    """One measurement: CPU seconds, peak anonymous memory above the start in MiB."""
    torch.set_num_threads(1)
    average_files(paths[:1], out, hashes=False)  # code and caches warm, as for every later call
    out.unlink()  # to free an old file's pages would be on the bill of the new one
    before = peak = anonymous_kib()

    def look(_: int) -> None:
        nonlocal peak
        peak = max(peak, anonymous_kib())

    began = time.process_time()
    if task == "soup":
        average_files(paths, out, hashes=False)
    elif task == "memory":
        average_files(paths, out, hashes=False, advance=look)
    elif task == "file by file":
        total = load_file(paths[0])
        for path in paths[1:]:
            for name, tensor in load_file(path).items():
                total[name] = total[name].float().add_(tensor)
        look(0)
    elif task == "hash":
        for path in paths:
            sha256(path)
    else:
        read(paths, int(task))
    print(time.process_time() - began, (peak - before) / 1024)


def measure(task: str, dtype: str, folder: Path, millions: int) -> tuple[float, float]:
    command = [sys.executable, __file__, str(folder), str(millions), "--one", task, dtype]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return float(found[0]), float(found[1])


def main() -> None:
    folder = Path(sys.argv[1])
    millions = int(sys.argv[2]) if len(sys.argv) > 2 else 100
    if "--one" in sys.argv:
        task, dtype = sys.argv[4:]
        one(task, write_files(folder, millions, getattr(torch, dtype)), folder / "out.safetensors")
        return
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    print(environment())
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        paths = write_files(folder, millions, dtype)
        size = paths[0].stat().st_size * COUNT / 1e9
        print(
            f"\n{COUNT} checkpoints of {millions} M {name} values in {TENSORS} tensors ({size:.1f} GB), {rounds} rounds"
        )
        tasks = [*map(str, READS), "soup", "file by file"]
        spent: dict[str, list[tuple[float, float]]] = {task: [] for task in tasks}
        for index in range(rounds):
            for task in tasks[index % len(tasks) :] + tasks[: index % len(tasks)]:
                spent[task].append(measure(task, name, folder, millions))
        cpu = {task: [seconds for seconds, _ in values] for task, values in spent.items()}
        floor = min(statistics.median(cpu[str(size)]) for size in READS)
        for task, values in cpu.items():
            label = f"read, {int(task) >> 10} KiB at a time" if task.isdigit() else task
            middle = statistics.median(values)
            spread = f"({min(values):.2f} .. {max(values):.2f})"
            print(f"  {label:28} CPU s {middle:6.2f} {spread}, {middle / floor:5.2f} of the best read")
        print(f"  anonymous memory of the soup: {measure('memory', name, folder, millions)[1]:.1f} MiB, "
              f"file by file: {spent['file by file'][0][1]:.0f} MiB")  # fmt: skip
        hashing = measure("hash", name, folder, millions)[0]
        print(
            f"  hashing all ingredients, apart: CPU s {hashing:.2f}, {hashing / floor:.2f} of the best read", flush=True
        )
        for path in paths:
            path.unlink()


if __name__ == "__main__":
    main()
