"""Does hardening reduce what a back-end does to a lane net? Every recipe's drift on every back-end that runs here.

python benchmarks/lanes_drift/measure.py RUN OUT.csv RECIPE...
python benchmarks/lanes_drift/measure.py summary OUT.csv...

RUN is a run folder of benchmarks/lanes_methods. Displacement at 42 m of the last weights of each recipe, report frames
under the vehicle's pipeline, against eager fp32; the summary gives means and differences from plain training by seed.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from benchmarks.summary import read_rows, written

from holdfast.core.errors import BackendError
from holdfast.core.fingerprint import environment
from holdfast.data.table import sensor_batch, spread
from holdfast.deploy.subjects import open_subject
from holdfast.select.stats import paired_difference, t_interval
from holdfast.verify.order import Source, load_source

SUBJECTS = (
    "emulated:tf32", "emulated:fp16", "emulated:fp16_accumulate", "emulated:bf16", "onnxruntime:fp32",
    "onnxruntime:int8", "openvino:fp32", "openvino:int8",
)  # fmt: skip
FRAMES, DRIFT = 64, "displacement_42m"


def main() -> None:
    if sys.argv[1] == "summary":
        summary(sys.argv[2:])
        return
    torch.set_num_threads(1)
    run, out, recipes = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    print({key: value for key, value in environment().items() if key != "time"})
    with out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("recipe", "seed", "subject", "executed", DRIFT))
        for recipe, cell in trained(run, recipes):
            source = load_source(run / "weights" / cell / "last.safetensors")
            for subject, executed, value in drifts(source):
                writer.writerow((recipe, source.about["init_seed"], subject, executed, f"{value:.6f}"))
                file.flush()


def trained(run: Path, recipes: list[str]) -> Iterator[tuple[str, str]]:
    """Recipe and the cell of its training."""
    for row in read_rows(run / "rows.jsonl"):
        if row.metric == "train_loss" and row.recipe in recipes:
            yield row.recipe, row.cell


def drifts(source: Source) -> Iterator[tuple[str, str, float]]:
    """Subject, what executed, and how far it moves the line, m."""
    task, model = source.task, source.model
    drift = next(drift for drift in task.drifts if drift.name == DRIFT)
    frames, calibration = (
        task.pipelines["vehicle"](sensor_batch(data, spread(len(data), FRAMES).tolist()))
        for data in (task.data("report"), task.data("train"))
    )
    example, reference = task.inputs(frames), None
    for spec in ("eager:fp32", *SUBJECTS):
        with tempfile.TemporaryDirectory() as folder:
            try:
                subject = open_subject(spec, model, example, [task.inputs(calibration)], Path(folder))
            except BackendError as error:
                print(f"{spec}: {error}")
                continue
            outputs = subject.run(*example)
            subject.close()
        if reference is None:
            reference = outputs
        else:
            yield spec, subject.executed, float(drift.compute(reference, outputs, frames).nanmean())


def summary(tables: list[str]) -> None:
    found: dict[str, dict[str, dict[str, float]]] = {}
    for table in tables:
        with Path(table).open(newline="") as file:
            for row in csv.DictReader(file):
                found.setdefault(row["subject"], {}).setdefault(row["recipe"], {})[row["seed"]] = float(row[DRIFT])
    recipes = list(next(iter(found.values())))
    print(f"| recipe | {' | '.join(found)} |\n|---|{'---|' * len(found)}")
    for recipe in recipes:
        cells = []
        for by_recipe in found.values():
            base, mine = by_recipe["baseline"], by_recipe[recipe]
            seeds = sorted(mine)
            text = written(t_interval([1000 * mine[s] for s in seeds]), 1)
            if recipe != "baseline":
                gap = paired_difference([mine[s] for s in seeds], [base[s] for s in seeds]).interval
                level = sum(base[s] for s in seeds) / len(seeds)
                clear = " *" if gap.low * gap.high > 0 else ""
                text += f" ({100 * gap.estimate / level:+.0f} %{clear})"
            cells.append(text)
        print(f"| {recipe} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
