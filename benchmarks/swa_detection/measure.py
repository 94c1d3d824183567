"""SWA for detection by the published recipe, against equal extra epochs without averaging; synthetic scenes.

OMP_NUM_THREADS=1 python -m benchmarks.swa_detection.measure 5 > benchmarks/swa_detection/log.txt

See `benchmarks/cycles.py` for the arms. Interrupted, it goes on with the next seed.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import torch
from benchmarks.cycles import Recipe, one_seed
from benchmarks.tally import Tally

from holdfast.core.contracts import Batch, Outputs
from holdfast.core.fingerprint import environment
from holdfast.tasks.box_measures import average_precision, decode, truth
from holdfast.tasks.detection import detection


def whole_ap(outputs: Outputs, batch: Batch, threshold: float) -> float:
    """Average precision over all frames of a split."""
    return average_precision(decode(outputs), truth(batch), threshold)


def main() -> None:
    torch.set_num_threads(1)
    print(environment())
    tally = Tally(Path(__file__).parent)
    recipe = Recipe(
        task=detection(scenes=256, test_scenes=256),
        set_metrics={f"set_ap_{percent}": partial(whole_ap, threshold=percent / 100) for percent in (50, 75)},
        epochs=30, batch=8, lr=4e-3,
    )  # fmt: skip
    for seed in tally.missing(range(int(sys.argv[1]))):
        print(f"seed {seed}", flush=True)
        one_seed(recipe, seed, tally)


if __name__ == "__main__":
    main()
