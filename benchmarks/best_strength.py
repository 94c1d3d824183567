"""Every method at its best strength: a table sorted by error on the vehicle, and a picture of the differences.

    python benchmarks/best_strength.py benchmarks/lanes_methods/study.yaml benchmarks/lanes_methods/rows.jsonl.gz \\
        --error lateral_error_42m --frame displacement_42m --drive sway_20m responsiveness_20m --picture methods.svg

Recipes that differ in a swept value are one method; its strength is the one with the least mean error under the second
pipeline on the ``select`` split, and everything shown is of the ``report`` splits: mean and 95 % t interval over seeds,
and differences from the baseline paired by seed. Passes: epochs x passes of a step, in plain epochs.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.summary import Seed, by_recipe, difference, read_rows, table, written
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from holdfast.core.config import Study, load_study
from holdfast.core.rows import Row
from holdfast.core.store import atomic_path
from holdfast.report.svg import image_bytes, style
from holdfast.select.stats import Interval, paired_difference, t_interval

Values = Mapping[str, Mapping[Seed, float]]
INK, LINE = "#57606a", "#8c959f"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--error", required=True)
    parser.add_argument("--frame", nargs="*", default=[], help="more metrics of single frames, on the vehicle")
    parser.add_argument("--drive", nargs="*", default=[], help="metrics of sequences, on the vehicle")
    parser.add_argument("--digits", type=int, default=3)
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    study, rows = load_study(arguments.study), read_rows(arguments.rows)
    chosen = best(rows, arguments.error, study.deployed)
    columns = {f"{arguments.error}@{name}": "report" for name in study.preprocessing}
    columns |= {f"{metric}@{study.deployed}": "report" for metric in arguments.frame}
    columns |= {f"{metric}@{study.deployed}": "report_sequence" for metric in arguments.drive}
    found = {column: by_recipe(rows, column, split) for column, split in columns.items()}
    main_column = f"{arguments.error}@{study.deployed}"
    order = sorted(chosen, key=lambda name: t_interval([*found[main_column][name].values()]).estimate)
    passes = spent(study, rows)
    print("Mean [95 % t interval over seeds]; passes in plain epochs, CPU seconds of one training:\n")
    table(
        ["method", *columns, "passes", "CPU, s"],
        [[name, *(written(t_interval([*found[c][name].values()]), arguments.digits) for c in columns), *passes[name]]
         for name in order],
    )  # fmt: skip
    print("\nDifference from the baseline, paired by seed:\n")
    others = [name for name in order if name != study.select.baseline]
    table(
        ["method", *columns],
        [[name, *(difference(found[c], name, study.select.baseline, arguments.digits) for c in columns)]
         for name in others],
    )  # fmt: skip
    if arguments.picture:
        draw(arguments.picture, found[main_column], others, study.select.baseline, main_column)


def best(rows: Sequence[Row], error: str, deployed: str) -> list[str]:
    """One recipe a method: the strength that errs least on the ``select`` split."""
    methods: dict[str, list[tuple[float, str]]] = {}
    for name, seeds in by_recipe(rows, f"{error}@{deployed}", "select").items():
        methods.setdefault(name.split("[")[0], []).append((sum(seeds.values()) / len(seeds), name))
    return [min(strengths)[1] for strengths in methods.values()]


def spent(study: Study, rows: Sequence[Row]) -> dict[str, tuple[str, str]]:
    """Passes and CPU seconds of a training by recipe; averages cost nothing beside their training."""
    found = {}
    for row in rows:
        if row.metric == "train_cpu":
            cost = next(r.value for r in rows if r.metric == "train_cost" and r.recipe == row.recipe)
            epochs = study.training_of(row.recipe).epochs
            seconds = [r.value for r in rows if r.metric == "train_cpu" and r.recipe == row.recipe]
            found[row.recipe] = (f"{cost * epochs:.1f}", f"{sum(seconds) / len(seconds):.0f}")
    averages = {f"{name}/{kind}": cost for name, cost in found.items() for kind in study.recipes[name].averages}
    return {**found, **averages}


def draw(target: Path, values: Values, names: Sequence[str], baseline: str, column: str) -> None:
    """Differences from the baseline with their intervals, the best on top."""
    with style(ink=INK):
        figure = Figure(figsize=(6.4, 0.6 + 0.24 * len(names)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.axvline(0, color=LINE, linewidth=0.8)
        for y, name in enumerate(names):
            gap = interval(values, name, baseline)
            clear = gap.high < 0 or gap.low > 0
            axes.plot([gap.low, gap.high], [y, y], color=INK if clear else LINE)
            axes.plot([gap.estimate], [y], "o", color=INK if clear else LINE, markersize=5 if clear else 4)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlabel(f"{column} less {baseline}: mean, 95 % interval")
        with atomic_path(target) as path:
            path.write_bytes(image_bytes(figure, "svg"))


def interval(values: Values, name: str, baseline: str) -> Interval:
    shared = sorted(set(values[name]) & set(values[baseline]))
    return paired_difference([values[name][s] for s in shared], [values[baseline][s] for s in shared]).interval


if __name__ == "__main__":
    main()
