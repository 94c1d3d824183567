"""Rows of a study as Markdown: mean and 95 % t interval over seeds, and paired differences from the baseline.

    python benchmarks/summary.py benchmarks/rc_track/rows.jsonl.gz error@train error@vehicle displacement@vehicle

A column is METRIC@PIPELINE, then optionally @BACKEND:PRECISION and @PROBE:CONDITION. Seeds on which a metric is not
defined (the correlation of a constant) are left out; the number that remains is then given.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from holdfast.core.rows import Row
from holdfast.select.stats import Interval, paired_difference, t_interval

Seed = tuple[int, int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("columns", nargs="+")
    parser.add_argument("--split", default="report")
    parser.add_argument("--baseline", default="baseline")
    parser.add_argument("--digits", type=int, default=4)
    arguments = parser.parse_args()
    rows = read_rows(arguments.rows)
    found = [by_recipe(rows, column, arguments.split) for column in arguments.columns]
    recipes = list(dict.fromkeys(name for column in found for name in column))

    most = max(len(seeds) for column in found for seeds in column.values())

    def cell(column: Mapping[str, Mapping[Seed, float]], recipe: str) -> str:
        values = list(column.get(recipe, {}).values())
        fewer = f" ({len(values)} seeds)" if len(values) < most else ""
        return written(t_interval(values), arguments.digits) + fewer if values else "undefined"

    print(f"n: {', '.join(samples(rows, column, arguments.split) for column in arguments.columns)}\n")
    table(["recipe", *arguments.columns], [[name, *(cell(column, name) for column in found)] for name in recipes])
    print(f"\nDifference from {arguments.baseline}, paired by seed:\n")
    table(
        ["recipe", *arguments.columns],
        [
            [name, *(difference(column, name, arguments.baseline, arguments.digits) for column in found)]
            for name in recipes
            if name != arguments.baseline
        ],
    )


def read_rows(path: Path) -> list[Row]:
    """Rows of a run folder's ``rows.jsonl``, packed or not; the lines between them say which cells are complete."""
    raw = path.read_bytes()
    lines = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode().splitlines()
    return [Row.from_json(record) for record in map(json.loads, lines) if "study" in record]


def by_recipe(rows: Sequence[Row], column: str, split: str) -> dict[str, dict[Seed, float]]:
    """Value by seed of every recipe; weights other than the last iterate stand as ``recipe/weights``."""
    found: dict[str, dict[Seed, float]] = {}
    for row in rows:
        if matches(row, column, split) and not math.isnan(row.value):
            name = row.recipe if row.weights == "last" else f"{row.recipe}/{row.weights}"
            found.setdefault(name, {})[row.init_seed, row.order_seed] = row.value
    if not found:
        raise SystemExit(f"no rows for {column} on {split}")
    return found


def matches(row: Row, column: str, split: str) -> bool:
    metric, pipeline, *rest = column.split("@")
    subject, probe = [*rest, *("eager:fp32", "deployment")[len(rest) :]]
    name, _, condition = probe.partition(":")
    asked = (metric, pipeline, subject, name, condition, split)
    return asked == (row.metric, row.preprocessing, row.subject, row.probe, row.condition, row.split)


def samples(rows: Sequence[Row], column: str, split: str) -> str:
    row = next(row for row in rows if matches(row, column, split))
    return f"{column} {row.n} in {row.groups} groups"


def difference(column: Mapping[str, Mapping[Seed, float]], name: str, baseline: str, digits: int) -> str:
    if name not in column or baseline not in column:
        return ""
    shared = [seed for seed in column[name] if seed in column[baseline]]
    if not shared:
        return ""
    pairs = paired_difference([column[name][s] for s in shared], [column[baseline][s] for s in shared])
    base = sum(column[baseline][s] for s in shared) / len(shared)
    share = f" ({100 * pairs.estimate / base:+.0f} %)" if base else ""
    return f"{written(pairs.interval, digits, sign='+')}{share}"


def written(interval: Interval, digits: int, sign: str = "") -> str:
    return f"{interval.estimate:{sign}.{digits}f} [{interval.low:{sign}.{digits}f}, {interval.high:{sign}.{digits}f}]"


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> None:
    for line in (head, ["---"] * len(head), *body):
        print(f"| {' | '.join(line)} |")


if __name__ == "__main__":
    main()
