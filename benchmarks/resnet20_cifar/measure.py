"""Does diagnosis name what is wrong with the input of a network that somebody else trained?

    HOLDFAST_DATA=data python benchmarks/resnet20_cifar/measure.py --out runs/resnet20

The weights are those of ``models/``; nothing is trained. Prints the table and the findings of every case.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from holdfast.data.sources import data_root
from holdfast.diagnose.order import Order
from holdfast.diagnose.run import Diagnosis, diagnose

TASK = f"{Path(__file__).with_name('task.py')}:resnet20"
EXPECTED = {"right": "", "bgr": "channel_order", "not_normalised": "normalised_as_imagenet",
            "levels": "normalised_as_imagenet"}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=1000, help="samples on which repairs are tried")
    parser.add_argument("--fed", default=",".join(EXPECTED), help="cases, comma-separated")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| fed | accuracy | treatment named first | brings back | 90 % interval | next | CPU s |")
    print("|---|---:|---|---:|---|---|---:|")
    for fed in arguments.fed.split(","):
        start = time.process_time()
        found = diagnosed(arguments, {"fed": fed}, ("clean", "deployment", "input_repair"))
        print(line(fed, found, time.process_time() - start, EXPECTED[fed]), flush=True)
    print("\nThe same faults beside the right pipeline, named from pixels alone (6 pairs each):\n")
    for fed in sorted({"bgr", "not_normalised"} & set(arguments.fed.split(","))):
        rows = diagnosed(arguments, {"fed": "right", "vehicle": fed}, ("input_drift",)).rows
        print(f"{fed}: " + "; ".join(f"{row.condition} {row.value:.2f}" for row in rows), flush=True)


def diagnosed(arguments: argparse.Namespace, options: dict[str, str], probes: tuple[str, ...]) -> Diagnosis:
    order = Order(
        path=data_root("models", "cifar10_resnet20_akamaster.th"), task=TASK, options=options, probes=probes,
        out=arguments.out / "-".join(options.values()), subjects=("eager:fp32",), limit=arguments.limit,
    )  # fmt: skip
    return diagnose(order, workers=0, quiet=True)[0]


def line(fed: str, found: Diagnosis, seconds: float, expected: str) -> str:
    clean = next(row for row in found.rows if row.probe == "clean" and row.metric == "accuracy")
    shipped = [treatment for treatment in found.treatments if treatment.as_shipped]
    first = shipped[0] if shipped else None
    named = "none" if first is None else first.name
    verdict = "right" if named == (expected or "none") else f"WRONG, {expected or 'none'} was planted"
    repairs = sorted((f for f in found.findings if f.kind == "repair"), key=lambda f: -f.damage)
    told = next((f for f in repairs if first is not None and f.name == first.name), None)
    interval = f"{told.interval.low:.3f} to {told.interval.high:.3f}" if told and told.interval else "–"
    after = ", ".join(f"{f.name} {f.damage:+.3f}" for f in repairs if f is not told)[:90]
    back = f"{told.damage:+.3f}" if told else "–"
    cells = (fed, f"{clean.value:.4f} (n {clean.n})", f"{named} ({verdict})", back, interval, after, f"{seconds:.0f}")
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
