"""Lazy training: what width and the ball around the initialisation do to robustness, two-layer ReLU, MNIST 0 against 1.

OMP_NUM_THREADS=1 python benchmarks/lazy_training/measure.py FOLDER_OF_MNIST > benchmarks/lazy_training/log.txt

f(x) = sum_s a_s relu(w_s x + b_s); w, b ~ N(0, 1); a = +-1 / sqrt(m); only w is trained. Inputs have norm 1. Logistic
loss, batch 64. Plain training: SGD 0.1, 6 epochs on all 12 665 zeros and ones, 5 seeds. Adversarial training: SGD
1.0, 100 steps, PGD of 3 steps in an L2 ball of 0.3, and after each step every row is projected back into a ball of
radius C0 / sqrt(m) around its start, 3 seeds. Every cell is kept in rows.csv and skipped when it is there. Tested on
2115 digits, by PGD-20 on the first 500.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from holdfast.core.fingerprint import environment
from holdfast.core.store import atomic_path
from holdfast.data.sources import read_idx
from holdfast.select.stats import paired_difference, t_interval
from holdfast.surgery.laziness import flip_rates, kernel_drift, linearisation_error
from holdfast.weights.checkpoints import Checkpoints
from holdfast.weights.travel import travel

SEEDS, EPOCHS, ADVERSARIAL_SEEDS, ADVERSARIAL_STEPS, EPS = range(5), 6, range(3), 100, 0.3
BUDGETS = (0.05, 0.1, 0.2, 0.3)
Digits = tuple[Tensor, Tensor]
State = dict[str, Tensor]
Rows = dict[str, dict[str, dict[int, float]]]
ROWS = Path(__file__).parent / "rows.csv"


class TwoLayer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(784, width)
        self.relu = nn.ReLU()
        nn.init.normal_(self.hidden.weight)
        nn.init.normal_(self.hidden.bias)
        self.hidden.bias.requires_grad_(False)
        self.register_buffer("signs", (2.0 * torch.randint(0, 2, (width,)) - 1) / math.sqrt(width))

    def forward(self, x: Tensor) -> Tensor:
        return (self.relu(self.hidden(x)) @ self.signs)[:, None]


def load(folder: Path, part: str) -> Digits:
    images = torch.from_numpy(read_idx(folder / f"{part}-images-idx3-ubyte.gz").copy()).flatten(1).float()
    labels = torch.from_numpy(read_idx(folder / f"{part}-labels-idx1-ubyte.gz").copy())
    chosen = labels <= 1
    x = images[chosen]
    return x / x.norm(dim=1, keepdim=True), 2.0 * labels[chosen].float() - 1


def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return functional.softplus(-y * model(x)[:, 0])


def one_step(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """``x - y eps grad f / ||grad f||``: the attack of the theorem."""
    z = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(z).sum(), z)
    return x - eps * y[:, None] * gradient / gradient.norm(dim=1, keepdim=True).clamp_min(1e-12)


def pgd(model: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int) -> Tensor:
    delta = torch.zeros_like(x)
    for _ in range(steps):
        z = (x + delta).requires_grad_()
        (gradient,) = torch.autograd.grad(loss(model, z, y).sum(), z)
        delta = delta + 2.5 * eps / steps * gradient / gradient.norm(dim=1, keepdim=True).clamp_min(1e-12)
        delta = delta * (eps / delta.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp_max(1)
    return x + delta


def fit(data: Digits, *, width: int, seed: int, adversarial: bool, c0: float = math.inf) -> tuple[nn.Module, State]:
    torch.manual_seed(seed)
    model = TwoLayer(width)
    start = Checkpoints(model)[0]
    x, y = data
    optimiser = torch.optim.SGD([model.hidden.weight], lr=1.0 if adversarial else 0.1)
    order = [indices for _ in range(EPOCHS) for indices in torch.randperm(len(x)).split(64)]
    for indices in order[:ADVERSARIAL_STEPS] if adversarial else order:
        inputs = pgd(model, x[indices], y[indices], EPS, 3) if adversarial else x[indices]
        optimiser.zero_grad()
        loss(model, inputs, y[indices]).mean().backward()
        optimiser.step()
        project(model, start, c0)
    return model.eval(), start


@torch.no_grad()
def project(model: TwoLayer, start: State, c0: float) -> None:
    if math.isinf(c0):
        return
    began = start["hidden.weight"]
    move = model.hidden.weight - began
    radius = c0 / math.sqrt(len(began))
    model.hidden.weight.copy_(began + move * (radius / move.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp_max(1))


def measure(model: nn.Module, start: State, data: Digits) -> dict[str, float]:
    x, y = data

    def accuracy(attack: Callable[[Tensor, Tensor], Tensor], n: int = len(x)) -> float:
        parts = zip(x[:n].split(500), y[:n].split(500), strict=True)
        return 100 * sum(float((model(attack(a, b))[:, 0] * b > 0).sum()) for a, b in parts) / n

    found = {"clean": accuracy(lambda a, b: a)}
    found |= {f"one step {e:g}": accuracy(lambda a, b, e=e: one_step(model, a, b, e)) for e in BUDGETS}
    found |= {f"PGD-20 {e:g}": accuracy(lambda a, b, e=e: pgd(model, a, b, e, 20), 500) for e in BUDGETS}
    moved = travel(start, model.state_dict(), ["hidden.weight"])
    some, few = (lambda m: m(x[:512])), (lambda m: m(x[:64]))
    errors, moves = linearisation_error(model, start, some)
    return found | {
        "C0 travelled": moved.row, "relative travel": moved.relative,
        "flips %": 100 * float(flip_rates(model, start, some)["relu"].mean()),
        "linearisation error": float(errors.norm() / moves.norm()), "kernel drift": kernel_drift(model, start, few),
    }  # fmt: skip


def recipes() -> dict[str, dict[str, Any]]:
    return {
        "SGD, m 100": {"width": 100, "adversarial": False},
        "SGD, m 1000": {"width": 1000, "adversarial": False},
        **{f"adversarial, m 1000, C0 {c}": {"width": 1000, "adversarial": True, "c0": c} for c in (2, 5, 10, 20)},
        "adversarial, m 1000, free": {"width": 1000, "adversarial": True},
    }


def read() -> Rows:
    """Value by recipe, metric and seed, of the cells that are done."""
    found: Rows = {}
    if ROWS.exists():
        with ROWS.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                found.setdefault(row["recipe"], {}).setdefault(row["metric"], {})[int(row["seed"])] = float(
                    row["value"]
                )
    return found


def write(rows: Rows) -> None:
    with atomic_path(ROWS) as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["recipe", "metric", "seed", "value"])
        writer.writerows(
            [recipe, metric, seed, f"{value:.6g}"]
            for recipe, metrics in rows.items() for metric, seeds in metrics.items() for seed, value in seeds.items()
        )  # fmt: skip


def fill(folder: Path) -> None:
    """Train and measure every cell that is not done, and keep each as soon as it is."""
    train, test = load(folder, "train"), load(folder, "t10k")
    for name, recipe in recipes().items():
        for seed in ADVERSARIAL_SEEDS if recipe["adversarial"] else SEEDS:
            rows = read()
            if seed not in rows.get(name, {}).get("clean", {}):
                for metric, value in measure(*fit(train, seed=seed, **recipe), test).items():
                    rows.setdefault(name, {}).setdefault(metric, {})[seed] = value
                write(rows)


def said(values: list[float]) -> str:
    found = t_interval(values)
    return f"{found.estimate:.4g} ({found.low:.4g} .. {found.high:.4g})"


def main() -> None:
    torch.set_num_threads(1)
    print(environment())
    fill(Path(sys.argv[1]))
    rows = read()
    print("mean and 95 % t interval over seeds; accuracy in %, n = 2115 digits, 500 for PGD")
    for name in recipes():
        print(f"\n{name}, {len(rows[name]['clean'])} seeds")
        for metric, seeds in rows[name].items():
            print(f"  {metric:20} {said(list(seeds.values()))}")
    narrow, wide = rows["SGD, m 100"], rows["SGD, m 1000"]
    print("\nwidth 1000 less width 100, SGD, paired by seed")
    for metric in narrow:
        gap = paired_difference([wide[metric][s] for s in SEEDS], [narrow[metric][s] for s in SEEDS])
        print(f"  {metric:20} {gap.estimate:+.4g} ({gap.interval.low:+.4g} .. {gap.interval.high:+.4g})")


if __name__ == "__main__":
    main()
