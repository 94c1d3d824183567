"""How much of a spread is the initialisation's law, its seed, the order of the data, and the method?

    python benchmarks/components.py benchmarks/init_lanes/rows.jsonl.gz lateral_error_42m@vehicle sway_20m@vehicle

Recipes are named METHOD_LAW. Seeds of the initialisation are nested in the law; order and method are crossed. Columns
are those of `benchmarks/summary.py`; metrics of sequences are looked for on ``report_sequence``. Deviations are in the
metric's unit; interactions are part of the residual, which is why each method is also shown alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from benchmarks.summary import Seed, by_recipe, read_rows, table, written

from holdfast.select.components import variance_components
from holdfast.select.stats import t_interval

NESTED = {"initialisation seed": "law"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("columns", nargs="+")
    parser.add_argument("--digits", type=int, default=4)
    arguments = parser.parse_args()
    rows = read_rows(arguments.rows)
    for column in arguments.columns:
        metric = column.split("@")[0]
        split = (
            "report_sequence" if any(r.metric == metric and r.split == "report_sequence" for r in rows) else "report"
        )
        values = by_recipe(rows, column, split)
        methods = list(dict.fromkeys(name.split("_")[0] for name in values))
        trainings = len(next(iter(values.values())))
        print(f"\n### {column}\n\nMean of a law [95 % t interval over its {trainings} trainings]:\n")
        laws = list(dict.fromkeys(name.split("_")[1] for name in values))
        table(
            ["method", *laws], [[m, *(mean(values[f"{m}_{law}"], arguments.digits) for law in laws)] for m in methods]
        )
        print("\nComponents of variance: standard deviation [95 % interval], share of the variance:\n")
        found = {"all": split_up(values, arguments.digits)}
        found |= {
            m: split_up({n: v for n, v in values.items() if n.startswith(f"{m}_")}, arguments.digits) for m in methods
        }
        sources = list(found["all"])
        table(["source", *found], [[source, *(part.get(source, "") for part in found.values())] for source in sources])


def mean(seeds: Mapping[Seed, float], digits: int) -> str:
    return written(t_interval([*seeds.values()]), digits)


def split_up(values: Mapping[str, Mapping[Seed, float]], digits: int) -> dict[str, str]:
    """Deviation, interval and share by source."""
    cells = [(name, seed, value) for name, seeds in values.items() for seed, value in seeds.items()]
    factors = {
        "law": [name.split("_")[1] for name, _, _ in cells],
        "initialisation seed": [seed[0] for _, seed, _ in cells],
        "order seed": [seed[1] for _, seed, _ in cells],
        "method": [name.split("_")[0] for name, _, _ in cells],
    }
    if len(set(factors["method"])) == 1:
        factors.pop("method")
    parts = variance_components([value for _, _, value in cells], factors, nested=NESTED)
    return {part.name: f"{written(part.deviation, digits)}, {100 * part.share:.0f} %" for part in parts}


if __name__ == "__main__":
    main()
