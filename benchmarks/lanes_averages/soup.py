"""A uniform soup of four fine-tunes of every `decay` net, beside the net itself, in fp32 and int8.

OMP_NUM_THREADS=1 python benchmarks/lanes_averages/soup.py RUN > benchmarks/lanes_averages/soup.txt

RUN is the folder that the study has filled. A fine-tune is one more epoch at a third of the peak rate, down to zero, in
another order; the soup takes the mean of everything, statistics included. Nothing is chosen, so nothing is held out.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from holdfast.core.fingerprint import environment
from holdfast.core.progress import Progress
from holdfast.select.stats import paired_difference, t_interval
from holdfast.train.objective import Objective
from holdfast.verify.cells import Cells
from holdfast.verify.order import Order, Source, load_source
from holdfast.verify.run import verify
from holdfast.weights.tree import mean

FINE_TUNES, BATCH, LR = 4, 32, 1e-3
SUBJECTS = ("eager:fp32", "onnxruntime:int8")
PIPELINES = ("train", "vehicle")


def fine_tune(source: Source, cells: Cells, seed: int) -> dict[str, Tensor]:
    """One epoch from the source's weights, which stay as they are."""
    model = source.task.build_model()
    model.load_state_dict(source.model.state_dict())
    objective, table = Objective(source.task, seed=seed), cells.table("train", "train")
    steps = torch.randperm(len(table), generator=torch.Generator().manual_seed(seed)).split(BATCH)
    optimiser = torch.optim.AdamW(model.train().parameters(), lr=LR)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, len(steps))
    for indices in steps:
        optimiser.zero_grad()
        objective.backward(model, table.batch(indices))
        optimiser.step()
        schedule.step()
    return model.eval().state_dict()


def souped(source: Source, order: Order) -> Source:
    with Progress(quiet=True) as progress, Cells(order, progress) as cells:
        tuned = [fine_tune(source, cells, seed) for seed in range(FINE_TUNES)]
    model = source.task.build_model()
    model.load_state_dict(mean(tuned))
    return replace(source, model=model.eval())


def measured(source: Source, order: Order) -> dict[str, float]:
    """Errors of every cell, and how far int8 moves the lines under the vehicle's pipeline."""
    found = verify(replace(order, source=source, subjects=SUBJECTS), quiet=True)
    values = {}
    for subject in SUBJECTS:
        for pipeline in PIPELINES:
            values[f"error {pipeline} {subject}"] = found.cells["report"][pipeline][subject]["lateral_error_42m"]
        values[f"sway vehicle {subject}"] = found.cells["report_sequence"]["vehicle"][subject]["sway_20m"]
    for part in found.compared:
        if part.factor == "arithmetic" and part.pipeline == "vehicle":
            values |= {f"{f.name} vehicle, int8 to fp32": f.interval.estimate for f in part.findings
                       if f.name == "displacement_42m"}  # fmt: skip
    return values


def main() -> None:
    torch.set_num_threads(1)
    print({key: value for key, value in environment().items() if key != "time"})
    run = Path(sys.argv[1])
    rows: dict[str, dict[str, list[float]]] = {"net": {}, "soup": {}}
    for weights in sorted(run.glob("weights/*/last.safetensors")):
        source = load_source(weights)
        if source.about["recipe"] != "decay":
            continue
        with tempfile.TemporaryDirectory() as folder:
            order = Order(source=source, out=Path(folder), subjects=(), preprocessing=PIPELINES)
            for name, one in (("net", source), ("soup", souped(source, order))):
                values = measured(one, order)
                print(f"{name} {source.about['init_seed']} {json.dumps(values)}", flush=True)
                for quantity, value in values.items():
                    rows[name].setdefault(quantity, []).append(value)
    print(f"mean [95 % t interval] over {len(next(iter(rows['net'].values())))} seeds, metres; soup less net, paired")
    for quantity, before in rows["net"].items():
        after = rows["soup"][quantity]
        one, other, gap = t_interval(before), t_interval(after), paired_difference(after, before)
        print(f"  {quantity:46} net {one.estimate:.4f} [{one.low:.4f}, {one.high:.4f}]  soup {other.estimate:.4f} "
              f"[{other.low:.4f}, {other.high:.4f}]  {gap.estimate:+.4f} "
              f"[{gap.interval.low:+.4f}, {gap.interval.high:+.4f}]")  # fmt: skip


if __name__ == "__main__":
    main()
