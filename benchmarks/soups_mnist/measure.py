"""Soups and WiSE-FT on MNIST, fine-tuned to MNIST turned by 40 degrees; and what a greedy soup costs.

OMP_NUM_THREADS=1 python -m benchmarks.soups_mnist.measure FOLDER_OF_MNIST > benchmarks/soups_mnist/log.txt

Images are averaged to 14 x 14, the network is an MLP 196-128-128-10. Base: 20 000 upright images. Fine-tuning: 1500
turned ones. Selection: 5000 turned and 5000 upright ones that training has not seen. Reported: the test set.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from benchmarks.tally import Tally
from torch import Tensor, nn
from torch.nn import functional

from holdfast.core.fingerprint import environment
from holdfast.data.sources import read_idx
from holdfast.select.stats import paired_difference, t_interval
from holdfast.weights.barrier import measure_barrier
from holdfast.weights.exam import Exam
from holdfast.weights.greedy import GreedyRules, GreedySoup, Ingredient, greedy_soup
from holdfast.weights.learned import LearnedRules, learned_soup
from holdfast.weights.model_stock import merge_model_stock
from holdfast.weights.tree import lerp, mean
from holdfast.weights.wise_ft import walk_path

State = dict[str, Tensor]
SEEDS, ANGLE = range(5), math.radians(40)


@dataclass
class Split:
    images: Tensor
    labels: Tensor


def network() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(196, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    )


def turned(images: Tensor) -> Tensor:
    c, s = math.cos(ANGLE), math.sin(ANGLE)
    grid = functional.affine_grid(torch.tensor([[[c, -s, 0.0], [s, c, 0.0]]]).expand(len(images), 2, 3),
                                  list(images.shape), align_corners=False)  # fmt: skip
    return functional.grid_sample(images, grid, align_corners=False)


def load(folder: Path) -> dict[str, Split]:
    def split(part: str, begin: int, end: int, turn: bool) -> Split:
        images = torch.from_numpy(read_idx(folder / f"{part}-images-idx3-ubyte.gz")[begin:end].copy())
        labels = torch.from_numpy(read_idx(folder / f"{part}-labels-idx1-ubyte.gz")[begin:end].copy()).long()
        x = images[:, None].float() / 255
        return Split(functional.avg_pool2d(turned(x) if turn else x, 2), labels)

    return {
        "base": split("train", 0, 20_000, False),
        "tune": split("train", 20_000, 21_500, True),
        "select": split("train", 30_000, 35_000, True),
        "select upright": split("train", 35_000, 40_000, False),
        "test": split("t10k", 0, 10_000, True),
        "test upright": split("t10k", 0, 10_000, False),
    }


def fit(model: nn.Module, data: Split, *, lr: float, epochs: int, seed: int) -> State:
    optimiser = torch.optim.Adam(model.parameters(), lr=lr)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for indices in torch.randperm(len(data.labels), generator=generator).split(64):
            optimiser.zero_grad()
            functional.cross_entropy(model(data.images[indices]), data.labels[indices]).backward()
            optimiser.step()
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def exam(data: Split, *, loss: bool = False, block: int = 250) -> Exam:
    def correct(model: nn.Module, indices: Tensor) -> Tensor:
        return (model(data.images[indices]).argmax(1) == data.labels[indices]).float()

    def losses(model: nn.Module, indices: Tensor) -> Tensor:
        return functional.cross_entropy(model(data.images[indices]), data.labels[indices], reduction="none")

    return Exam(model=network(), size=len(data.labels), measure=losses if loss else correct,
                better="lower" if loss else "higher", block=block)  # fmt: skip


def accuracy(state: State, data: Split) -> float:
    return 100 * exam(data, block=5000).sheet(state).mean()


def base_model(data: dict[str, Split], seed: int) -> State:
    torch.manual_seed(seed)
    return fit(network(), data["base"], lr=1e-3, epochs=5, seed=seed)


def tuned(base: State, data: Split, count: int, low: float, high: float, seed: int) -> list[State]:
    """Fine-tunes with log-uniform learning rates between 10^low and 10^high, half of them on other orders."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for index in range(count):
        model = network()
        model.load_state_dict(base)
        lr = 10 ** (low + (high - low) * float(torch.rand((), generator=generator)))
        found.append(fit(model, data, lr=lr, epochs=5, seed=1000 * seed + index))
    return found


def shelf(states: list[State], scores: list[float] | None = None) -> list[Ingredient]:
    return [Ingredient(label=str(k), load=lambda s=s: s, score=scores[k] if scores else None)
            for k, s in enumerate(states)]  # fmt: skip


def pot(states: list[State], data: Split, **rules: object) -> GreedySoup:
    return greedy_soup(shelf(states), exam(data), loss=exam(data, loss=True), rules=GreedyRules(**rules))


def learn(states: list[State], data: Split, *, per_layer: bool) -> State:
    batches = list(zip(data.images.split(256), data.labels.split(256), strict=True))
    return learned_soup(network(), states, lambda: batches,
                        lambda forward, batch: functional.cross_entropy(forward(batch[0]), batch[1]),
                        rules=LearnedRules(per_layer=per_layer))[0]  # fmt: skip


def one_sweep(base: State, states: list[State], data: dict[str, Split]) -> dict[str, tuple[float, float]]:
    """Accuracy on turned and upright test images of everything that can be made of a sweep."""
    greedy, ties, lcb = (pot(states, data["select"], accept=rule) for rule in (">", ">=", "lcb"))
    best = states[int(greedy.trials[0].label)]
    made = {
        "base": base, "best on select": best, "uniform": mean(states), "greedy >": greedy.state,
        "greedy >=": ties.state, "greedy lcb": lcb.state,
        "learned": learn(states, data["select"], per_layer=False),
        "learned per layer": learn(states, data["select"], per_layer=True),
        "Model Stock of two": merge_model_stock(base, states[:2])[0],
    }  # fmt: skip
    found = {name: (accuracy(s, data["test"]), accuracy(s, data["test upright"])) for name, s in made.items()}
    each = [(accuracy(s, data["test"]), accuracy(s, data["test upright"])) for s in states]
    found["mean of ingredients"] = tuple(sum(column) / len(each) for column in zip(*each, strict=True))
    found["members of greedy >"] = (len(greedy.members), len(states))
    found["members of greedy lcb"] = (len(lcb.members), len(states))
    for rule, soup in ((">", greedy), ("lcb", lcb)):
        if soup.explanation:
            print(f"    greedy {rule} {soup.explanation}")
    return found


def interval(values: list[float]) -> str:
    found = t_interval(values)
    return f"{found.estimate:6.2f} ({found.low:.2f} .. {found.high:.2f})"


def sweeps(data: dict[str, Split], bases: list[State], tally: Tally) -> None:
    for name, low, high in (
        ("narrow, within a factor 3", -3.0, -2.52),
        ("wide, 10^-3.7 .. 10^-2.3", -3.7, -2.3),
        ("absurd, 10^-4.5 .. 10^-1.5", -4.5, -1.5),
    ):
        print(f"\nsweep {name}: 10 ingredients, accuracy %, mean and 95 % t interval over {len(SEEDS)} seeds")
        runs = [
            one_sweep(base, tuned(base, data["tune"], 10, low, high, seed), data) for seed, base in enumerate(bases)
        ]
        for seed, run in enumerate(runs):
            for row in run:
                for k, domain in enumerate(("turned", "upright")):
                    metric = ("members", "ingredients")[k] if row.startswith("members") else "accuracy"
                    tally.add(seed, row, metric, run[row][k] / (1 if metric != "accuracy" else 100),
                              pipeline=domain, condition=name.split(",")[0])  # fmt: skip
        for row in runs[0]:
            turned_, upright = ([run[row][k] for run in runs] for k in range(2))
            print(f"  {row:22} turned {interval(turned_)}, upright {interval(upright)}")
        for row in ("greedy >", "uniform", "learned"):
            gap = paired_difference([run[row][0] for run in runs], [run["best on select"][0] for run in runs])
            print(f"  {row} minus best, turned, paired: {gap.estimate:+.2f} "
                  f"({gap.interval.low:+.2f} .. {gap.interval.high:+.2f}), p = {gap.p:.3f}")  # fmt: skip


def strangers(data: dict[str, Split], tally: Tally) -> None:
    print(f"\nthree networks from scratch on the turned images, {len(SEEDS)} seeds")
    single, averaged, verdicts = [], [], []
    for seed in SEEDS:
        states = []
        for k in range(3):
            torch.manual_seed(100 + 3 * seed + k)
            states.append(fit(network(), data["tune"], lr=1e-3, epochs=20, seed=seed))
        single.append(sum(accuracy(state, data["test"]) for state in states) / 3)
        averaged.append(accuracy(mean(states), data["test"]))
        for row, value in (("one of them", single[-1]), ("uniform", averaged[-1])):
            tally.add(seed, row, "accuracy", value / 100, pipeline="turned", condition="from scratch")
        asked = exam(data["select"], loss=True)
        sheets = [asked.sheet(state) for state in states]
        verdicts += [measure_barrier(sheets[0], sheet).verdict for sheet in sheets[1:]]
    print(f"  one of them {interval(single)}, their average {interval(averaged)}")
    print(f"  barrier check before averaging, on 512 samples: {verdicts.count('blocked')} of {len(verdicts)} blocked")


def wise(data: dict[str, Split], bases: list[State], tally: Tally) -> None:
    print(f"\nWiSE-FT from base to the best of five fine-tunes at 10^-2.7, {len(SEEDS)} seeds, accuracy %")
    gains, alphas, tables = [], [], []
    for seed, base in enumerate(bases):
        states = tuned(base, data["tune"], 5, -2.7, -2.7, 50 + seed)
        best = max(states, key=lambda state: accuracy(state, data["select"]))
        domains = {"turned": exam(data["select"]), "upright": exam(data["select upright"])}
        path = walk_path(base, best, domains)
        alphas.append(path.best)
        states = [lerp(base, best, point.alpha) for point in path.points]
        tables.append([(accuracy(s, data["test"]), accuracy(s, data["test upright"])) for s in states])
        for point, row in zip(path.points, tables[-1], strict=True):
            for domain, value in zip(("turned", "upright"), row, strict=True):
                tally.add(seed, f"alpha {point.alpha:.1f}", "accuracy", value / 100, pipeline=domain, condition="path")
        means = [sum(row) / 2 for row in tables[-1]]
        gains.append(means[round(10 * path.best)] - max(means[0], means[-1]))
    for k in range(11):
        columns = [[table[k][d] for table in tables] for d in range(2)]
        columns.append([sum(table[k]) / 2 for table in tables])
        shown = ", ".join(f"{n} {interval(c)}" for n, c in zip(("turned", "upright", "mean"), columns, strict=True))
        print(f"  alpha {k / 10:.1f}: {shown}")
    print(f"  alpha chosen on the selection splits: {alphas}")
    print(
        f"  two-domain mean on test, chosen alpha minus the better end: {interval(gains)}, smallest {min(gains):+.2f}"
    )


def cost(data: dict[str, Split], base: State, repeats: int = 20) -> None:
    """Evaluations against the naive recipe's 2N - 1, and whether the final set is the same."""
    print(f"\ngreedy soup of 20 narrow ingredients, {repeats} repeats; the naive recipe needs 39 evaluations")
    counts: dict[str, list[float]] = {"cold": [], "cold with barriers": [], "scores known": []}
    same: dict[str, int] = dict.fromkeys(counts, 0)
    sizes = []
    for repeat in range(repeats):
        states = tuned(base, data["tune"], 20, -3.0, -2.52, 500 + repeat)
        naive = greedy_soup(shelf(states), exam(data["select"]), rules=GreedyRules(risk=0.0, barrier="off"))
        scores = [exam(data["select"]).sheet(state).mean() for state in states]
        sizes.append(len(naive.members))
        for name in counts:
            asked = shelf(states, scores if name == "scores known" else None)
            rules = GreedyRules(barrier="refuse" if name == "cold with barriers" else "off")
            soup = greedy_soup(asked, exam(data["select"]), loss=exam(data["select"], loss=True), rules=rules)
            counts[name].append(soup.evaluations)
            same[name] += set(soup.members) == set(naive.members)
    print(f"  ingredients kept by the naive recipe: {sizes}")
    for name, values in counts.items():
        mean_count = f"{sum(values) / len(values):5.1f} evaluations ({min(values):.1f} .. {max(values):.1f})"
        print(f"  {name:20} {mean_count}, the same set in {same[name]} of {repeats}")


def main() -> None:
    torch.set_num_threads(1)
    print(environment())
    data = load(Path(sys.argv[1]))
    bases = [base_model(data, seed) for seed in SEEDS]
    tally = Tally(Path(__file__).parent)
    sweeps(data, bases, tally)
    strangers(data, tally)
    wise(data, bases, tally)
    tally.keep()
    cost(data, bases[0])


if __name__ == "__main__":
    main()
