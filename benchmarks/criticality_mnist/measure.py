"""Which layers of an FCN 3x256 on MNIST are critical: re-initialised, re-randomised, and far from their start.

OMP_NUM_THREADS=1 python benchmarks/criticality_mnist/measure.py FOLDER_OF_MNIST > benchmarks/criticality_mnist/log.txt

Writes rows.csv and criticality.svg beside this file. He-normal weights, zero biases, SGD 0.05 with momentum 0.9,
batch 128, cosine, 10 epochs; weight and bias move together; all 10 000 test digits; 5 seeds.
"""

from __future__ import annotations

import csv
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from holdfast.core.fingerprint import environment
from holdfast.core.store import atomic_path
from holdfast.data.sources import read_idx
from holdfast.report import svg
from holdfast.select.stats import t_interval
from holdfast.surgery.criticality import Change, Questions, reset, sweep
from holdfast.surgery.owned import owned_layers
from holdfast.weights.checkpoints import Checkpoints
from holdfast.weights.travel import permuted, travel

SEEDS, EPOCHS, KEPT, DRAWS = range(5), 10, (1, 2, 5), 5
HERE = Path(__file__).parent
NAMES = {"0": "layer 1", "2": "layer 2", "4": "layer 3", "6": "output"}
TOLERANCE = 0.05
Digits = tuple[Tensor, Tensor]


def load(folder: Path, part: str) -> Digits:
    images = torch.from_numpy(read_idx(folder / f"{part}-images-idx3-ubyte.gz").copy()).flatten(1).float() / 255
    return images, torch.from_numpy(read_idx(folder / f"{part}-labels-idx1-ubyte.gz").copy()).long()


def network() -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in ((784, 256), (256, 256), (256, 256), (256, 10)):
        linear = nn.Linear(a, b)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def fit(data: Digits, seed: int) -> tuple[nn.Module, Checkpoints]:
    torch.manual_seed(seed)
    model = network()
    kept = Checkpoints(model)
    x, y = data
    steps = len(x) // 128
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS * steps)
    for epoch in range(1, EPOCHS + 1):
        for indices in torch.randperm(len(x))[: steps * 128].split(128):
            optimiser.zero_grad()
            functional.cross_entropy(model(x[indices]), y[indices]).backward()
            optimiser.step()
            schedule.step()
        if epoch in KEPT:
            kept.keep(epoch)
    return model.eval(), kept


def questions(model: nn.Module, data: Digits) -> Questions:
    x, y = data
    return Questions(
        model=model, size=len(x), batch=lambda i: (x[i], y[i]), forward=lambda m, b: m(b[0]),
        judge=lambda o, r, b: {"accuracy": (o.argmax(1) == b[1]).double()}, block=500,
    )  # fmt: skip


def changes(model: nn.Module, kept: Checkpoints) -> list[Change]:
    layers = owned_layers(model).values()
    found = [reset(model, [layer], kept[epoch], kind=f"reinit {epoch}") for epoch in kept.epochs for layer in layers]
    for layer in layers:
        for draw in range(DRAWS):
            fresh = permuted(kept[0], layer.parameters, torch.Generator().manual_seed(draw))
            found.append(reset(model, [layer], fresh, kind="rerand"))
    robust = [layer for layer in layers if layer.name != "0"]
    return [*found, reset(model, robust, kept[0], kind="reinit 0", name="layers 2, 3 and output jointly")]


Rows = list[dict[str, object]]


def measure(model: nn.Module, kept: Checkpoints, data: Digits, seed: int) -> Rows:
    """One row for each change, in accuracy, and one for each layer and distance."""
    found = sweep(questions(model, data), changes(model, kept), tolerance=TOLERANCE, risk=0.0)
    rows: Rows = [{"seed": seed, "kind": "reference", "layer": "", "value": found[0].reference["accuracy"].mean()}]
    for finding in found:
        layer = NAMES.get(finding.change.layer, finding.change.layer)
        rows.append(
            {"seed": seed, "kind": finding.change.kind, "layer": layer, "value": finding.values["accuracy"].mean()}
        )
    for name, layer in owned_layers(model).items():
        moved = travel(kept[0], model.state_dict(), layer.parameters)
        rows += [{"seed": seed, "kind": norm, "layer": NAMES[name], "value": getattr(moved, norm)}
                 for norm in ("l2", "relative", "linf", "rms")]  # fmt: skip
    return rows


def by_seed(rows: Rows, kind: str, layer: str) -> list[float]:
    """Mean over draws, seed by seed."""
    return [
        float(np.mean([r["value"] for r in rows if (r["seed"], r["kind"], r["layer"]) == (seed, kind, layer)]))
        for seed in SEEDS
    ]


def said(values: list[float], scale: float = 100, digits: int = 2) -> str:
    found = t_interval([scale * value for value in values])
    return f"{found.estimate:.{digits}f} ({found.low:.{digits}f} .. {found.high:.{digits}f})"


def tables(rows: Rows) -> None:
    print(f"\naccuracy %, mean and 95 % t interval over {len(SEEDS)} seeds, n = 10 000 digits")
    print(f"reference {said(by_seed(rows, 'reference', ''))}")
    for kind in ("reinit 0", *(f"reinit {epoch}" for epoch in KEPT), "rerand"):
        print(f"{kind:10} " + "  ".join(f"{name} {said(by_seed(rows, kind, name))}" for name in NAMES.values()))
    joint = "layers 2, 3 and output jointly"
    print(f"reinit 0, {joint}: {said(by_seed(rows, 'reinit 0', joint))}")
    for norm in ("l2", "relative", "linf", "rms"):
        values = {name: by_seed(rows, norm, name) for name in NAMES.values()}
        first = [max(values, key=lambda name, s=s: values[name][s]) for s in range(len(SEEDS))]
        print(f"{norm:10} " + "  ".join(f"{n} {said(v, 1, 4)}" for n, v in values.items()) + f"  largest: {first}")
    spread = [
        statistics.stdev(float(r["value"]) for r in rows if (r["seed"], r["kind"], r["layer"]) == (s, "rerand", name))
        for s in SEEDS for name in NAMES.values()
    ]  # fmt: skip
    print(
        f"deviation of the accuracy between {DRAWS} draws of one layer: mean {100 * statistics.mean(spread):.1f} points"
    )


def figure(rows: Rows) -> bytes:
    """Layers by what they are reset to, and beside it how far each had travelled."""
    from matplotlib.figure import Figure

    kinds = ["rerand", "reinit 0", *(f"reinit {epoch}" for epoch in KEPT)]
    names = list(NAMES.values())
    grid = np.array([[100 * np.mean(by_seed(rows, kind, name)) for kind in kinds] for name in names])
    with svg.style(ink="#1a1a1a"):
        drawn = Figure(figsize=(8.6, 2.9), facecolor="white", layout="constrained")
        left, *right = drawn.subplots(1, 4, width_ratios=[3.2, 1, 1, 1], gridspec_kw={"wspace": 0.12})
        left.imshow(100 - grid, cmap="Oranges", vmin=0, vmax=100, aspect="auto")
        for i, row in enumerate(grid):
            for j, value in enumerate(row):
                left.text(j, i, f"{value:.1f}", ha="center", va="center", color="white" if value < 40 else "#1a1a1a")
        left.set_xticks(range(len(kinds)), ["fresh draw", "epoch 0", *(f"epoch {epoch}" for epoch in KEPT)])
        left.set_yticks(range(len(names)), names)
        reference = 100 * np.mean(by_seed(rows, "reference", ""))
        left.set_title(f"accuracy % after one reset (unchanged {reference:.1f})", fontsize=10, loc="left")
        for axes, norm, title in zip(
            right, ("l2", "relative", "linf"), ("moved, L2", "relative", "largest"), strict=True
        ):
            axes.barh(range(len(names)), [np.mean(by_seed(rows, norm, name)) for name in names], color="#8a8a8a")
            axes.set(yticks=[], ylim=(len(names) - 0.5, -0.5))
            axes.set_title(title, fontsize=10, loc="left")
        return svg.image_bytes(drawn, "svg")


def naive(model: nn.Module, data: Digits, asked: list[Change]) -> list[bool]:
    """Every change on every digit, in full."""
    x, y = data
    verdicts = []
    with torch.no_grad():
        base = torch.cat([model(part) for part in x.split(500)]).argmax(1) == y
        for change in asked:
            with change.entered():
                right = torch.cat([model(part) for part in x.split(500)]).argmax(1) == y
            verdicts.append(float((base.double() - right.double()).mean()) > TOLERANCE)
    return verdicts


def quick(model: nn.Module, data: Digits, asked: list[Change], *, risk: float) -> list[bool]:
    return [finding.critical for finding in sweep(questions(model, data), asked, tolerance=TOLERANCE, risk=risk)]


def speed(runs: list[tuple[nn.Module, Checkpoints]], data: Digits, rounds: int = 5) -> None:
    model, kept = runs[0]
    asked = changes(model, kept)
    ways: dict[str, Callable[[], list[bool]]] = {
        "naive": lambda: naive(model, data, asked),
        "prefixes": lambda: quick(model, data, asked, risk=0.0),
        "prefixes and early decision": lambda: quick(model, data, asked, risk=0.01),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            begin = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - begin)
    print(f"\nspeed: {len(asked)} changes, 10 000 digits, one thread, {rounds} interleaved rounds, seconds")
    for name, values in times.items():
        ratios = [slow / fast for slow, fast in zip(times["naive"], values, strict=True)]
        low, mid, high = np.percentile(ratios, [25, 50, 75])
        print(f"  {name:28} median {statistics.median(values):.3f}, naive is {mid:.2f}x ({low:.2f} .. {high:.2f})")
    same = [naive(m, data, changes(m, k)) == quick(m, data, changes(m, k), risk=0.01) for m, k in runs]
    print(f"  verdicts identical to naive in {sum(same)} of {len(same)} networks, {len(asked)} verdicts each")
    layers = [784 * 256, 256 * 256, 256 * 256, 2560]
    cost = [sum(layers[k:]) for k in range(4)]
    bound = 4 * cost[0] / (cost[0] + sum(cost))
    print(f"  bound of prefixes alone, by multiplications, one change a layer: {bound:.2f}x"
          " with its reference pass, and that pass shared by all changes of a layer")  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    print(environment())
    folder = Path(sys.argv[1])
    train, test = load(folder, "train"), load(folder, "t10k")
    rows: Rows = []
    runs = []
    for seed in SEEDS:
        runs.append(fit(train, seed))
        rows += measure(*runs[-1], test, seed)
    tables(rows)
    with atomic_path(HERE / "rows.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["seed", "kind", "layer", "value"])
        writer.writeheader()
        writer.writerows({**row, "value": f"{row['value']:.6g}"} for row in rows)
    with atomic_path(HERE / "criticality.svg") as path:
        path.write_bytes(figure(rows))
    speed(runs, test)


if __name__ == "__main__":
    main()
