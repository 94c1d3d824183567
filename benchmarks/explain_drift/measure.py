"""Accuracy of `holdfast explain-drift` on real frames: writes cases.csv, confusion.csv and prints the tables.

    python benchmarks/explain_drift/measure.py --data DATA --out benchmarks/explain_drift

DATA holds the picture sets named in pairs.py. `--tuning` runs on the sets on which costs and floors were chosen. What
was measured in pieces, with a seed and a folder each, is put together by

    python benchmarks/explain_drift/measure.py --out benchmarks/explain_drift --join PIECE/cases.csv...

`--speed ROUNDS` prints the CPU seconds of every fault once on 640 x 384, and writes nothing.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from faults import FAULTS
from pairs import KERNELS, TEST, TUNING, Case, compositions, draw_frame, frames, singles, sized, strangers, with_raw

from holdfast.core.errors import HoldfastError
from holdfast.explain_drift.explain import Explanation, explain

COLUMNS = (
    "kind", "source", "scale", "truth", "families", "found", "named", "alike_or_hidden", "margins", "confidences",
    "remaining", "same_frame", "cpu_s",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path())
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--tuning", action="store_true")
    parser.add_argument("--sets", default="")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--compositions", type=int, default=200)
    parser.add_argument("--strangers", type=int, default=20)
    parser.add_argument("--raw", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--speed", type=int, default=0)
    parser.add_argument("--join", type=Path, nargs="*", default=[])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.speed:
        speed(frames(arguments.data, TEST[0]), arguments.speed, np.random.default_rng(arguments.seed))
    elif arguments.join:
        join(arguments.join, arguments.out)
    else:
        measure(arguments)


def join(pieces: list[Path], out: Path) -> None:
    rows: list[dict[str, object]] = []
    for piece in pieces:
        with piece.open(newline="") as file:
            rows += csv.DictReader(file)
    with (out / "cases.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    tables(rows, out)


def measure(arguments: argparse.Namespace) -> None:
    names = arguments.sets.split(",") if arguments.sets else TUNING if arguments.tuning else TEST
    rows = []
    with (arguments.out / "cases.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for label, case in all_cases({name: frames(arguments.data, name) for name in names}, arguments):
            row = examined(label, case)
            writer.writerow(row)
            file.flush()
            rows.append(row)
    tables(rows, arguments.out)
    if arguments.raw:
        raw_table({name: frames(arguments.data, name) for name in names}, arguments)


def raw_table(pictures: dict[str, list[np.ndarray]], arguments: argparse.Namespace) -> None:
    """How often the raw frame names the kernel, and how often the frame of another moment is refused."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for kind, source, kernel, training, vehicle, frame in with_raw(
        pictures, arguments.raw, np.random.default_rng(arguments.seed)
    ):
        try:
            told = explain(training, vehicle, raw=frame)
            said = " ".join([f.detail.split("in training:")[0] for f in told.findings] + list(told.notes))
            outcome = "named" if KERNELS[kernel] in said else "named wrongly"
        except HoldfastError:
            outcome = "refused"
        counts[kind, source, outcome] += 1
    print("\n| raw frame | set | named | named wrongly | refused |\n|---|---|---:|---:|---:|")
    for kind, source in dict.fromkeys((kind, source) for kind, source, _ in counts):
        cells = [counts[kind, source, outcome] for outcome in ("named", "named wrongly", "refused")]
        print(f"| {kind} | {source} | {' | '.join(map(str, cells))} |")


def speed(pictures: list[np.ndarray], rounds: int, rng: np.random.Generator) -> None:
    """Every fault on a frame drawn once, timed in every round, in an order drawn anew."""
    pairs = [sized(fault, draw_frame(pictures, rng), rng) for fault in FAULTS]
    explain(*pairs[0])
    spent = np.zeros((rounds, len(pairs)))
    for row in spent:
        for k in rng.permutation(len(pairs)):
            start = time.process_time()
            explain(*pairs[k])
            row[k] = time.process_time() - start
    print(f"\n| 640 x 384, {rounds} rounds | CPU s, median | least | most |\n|---|---:|---:|---:|")
    middle = np.median(spent, axis=0)
    for fault, *cells in zip(FAULTS, middle, spent.min(0), spent.max(0), strict=True):
        print(f"| {fault.name} | {' | '.join(f'{cell:.2f}' for cell in cells)} |")
    print(f"of the {len(pairs)} medians: median {np.median(middle):.2f}, largest {middle.max():.2f} CPU s")


def all_cases(pictures: dict[str, list[np.ndarray]], arguments: argparse.Namespace) -> Iterator[tuple[str, Case]]:
    rng = np.random.default_rng(arguments.seed)
    for case in singles(pictures, arguments.repeats, rng):
        yield case.truth[0].name, case
    for case in compositions(pictures, arguments.compositions, rng):
        yield "+".join(fault.name for fault in case.truth), case
    yield from strangers(pictures, arguments.strangers, rng)


def examined(label: str, case: Case) -> dict[str, object]:
    start = time.process_time()
    try:
        told: Explanation | None = explain(case.training, case.vehicle)
    except HoldfastError:
        told = None
    seconds = time.process_time() - start
    findings = told.findings if told else ()
    return {
        "kind": case.kind, "source": case.source, "scale": case.scale, "truth": label,
        "families": " ".join(sorted({fault.family for fault in case.truth})),
        "found": " ".join(finding.family for finding in findings),
        "named": " ".join(finding.name for finding in findings),
        "alike_or_hidden": " ".join(sorted({name for finding in findings for name in finding.hides})),
        "margins": " ".join(f"{finding.margin:.3f}" for finding in findings),
        "confidences": " ".join(f"{finding.confidence:.3f}" for finding in findings),
        "remaining": f"{told.remaining:.4f}" if told else "", "same_frame": told.same_frame if told else "",
        "cpu_s": f"{seconds:.3f}",
    }  # fmt: skip


# --- tables ---------------------------------------------------------------------------------------------


def tables(rows: list[dict[str, object]], out: Path) -> None:
    confusion(rows, out / "confusion.csv")
    single = [row for row in rows if row["kind"] == "single"]
    print("\n| fault | n | top-1 class | exactly that class |\n|---|---:|---:|---:|")
    for fault in FAULTS:
        mine = [row for row in single if row["truth"] == fault.name]
        first = sum(str(row["found"]).split()[:1] == [fault.family] for row in mine)
        exact = sum(str(row["found"]).split() == [fault.family] for row in mine)
        print(f"| {fault.name} ({fault.family}) | {len(mine)} | {first} | {exact} |")
    for kind in ("single", "composition"):
        mine = [row for row in rows if row["kind"] == kind]
        if mine:
            summary(kind, mine)
    for name in dict.fromkeys(row["truth"] for row in rows if row["kind"] == "none"):
        mine = [row for row in rows if row["kind"] == "none" and row["truth"] == name]
        alarms = Counter(str(row["found"]) for row in mine if row["found"])
        print(f"none, {name}: {sum(alarms.values())} false alarms of {len(mine)} {dict(alarms)}")
    seconds = [float(str(row["cpu_s"])) for row in rows]
    print(f"CPU seconds a pair: median {np.median(seconds):.2f}, max {max(seconds):.2f}")


def summary(kind: str, rows: list[dict[str, object]]) -> None:
    truth = [set(str(row["families"]).split()) for row in rows]
    found = [set(str(row["found"]).split()) for row in rows]
    told = [f | set(str(row["alike_or_hidden"]).split()) for f, row in zip(found, rows, strict=True)]
    first = sum(str(row["found"]).split()[:1] == [str(row["families"])] for row in rows)
    line = {
        "top-1 class": first if kind == "single" else None,
        "all causes named": sum(t <= f for t, f in zip(truth, found, strict=True)),
        "all causes named or announced as indistinguishable": sum(t <= f for t, f in zip(truth, told, strict=True)),
        "exactly the causes": sum(t == f for t, f in zip(truth, found, strict=True)),
    }
    for name, count in line.items():
        if count is not None:
            low, high = wilson(count, len(rows))
            print(f"{kind}: {name}: {count} of {len(rows)} = {count / len(rows):.3f} (95 % {low:.3f} .. {high:.3f})")


def wilson(k: int, n: int) -> tuple[float, float]:
    """95 % score interval of a share."""
    z = 1.959964
    centre, half = (k + z * z / 2) / (n + z * z), z * (k * (n - k) / n + z * z / 4) ** 0.5 / (n + z * z)
    return centre - half, centre + half


def confusion(rows: list[dict[str, object]], path: Path) -> None:
    """Rows: true class of the single faults and kinds of strangers; columns: class named first."""
    counts = Counter()
    for row in rows:
        if row["kind"] != "composition":
            true = row["families"] or f"none: {row['truth']}"
            counts[str(true), (str(row["found"]).split() or ["none"])[0]] += 1
    columns = sorted({named for _, named in counts})
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["true", *columns])
        for true in dict.fromkeys(true for true, _ in counts):
            writer.writerow([true, *(counts[true, named] for named in columns)])


if __name__ == "__main__":
    main()
