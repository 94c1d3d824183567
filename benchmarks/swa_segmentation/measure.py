"""SWA for segmentation by the recipe published for detectors, against equal extra epochs without averaging; CamVid.

OMP_NUM_THREADS=1 python -m benchmarks.swa_segmentation.measure 3 > benchmarks/swa_segmentation/log.txt

See `benchmarks/cycles.py` for the arms. Interrupted, it goes on with the next seed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from benchmarks.cycles import Recipe, one_seed
from benchmarks.swa_segmentation.task import camvid, mean_iou
from benchmarks.tally import Tally

from holdfast.core.fingerprint import environment


def main() -> None:
    torch.set_num_threads(1)
    print(environment())
    tally = Tally(Path(__file__).parent)
    recipe = Recipe(task=camvid(), set_metrics={"mean_iou": mean_iou}, epochs=40, batch=8, lr=2e-3)
    for seed in tally.missing(range(int(sys.argv[1]))):
        print(f"seed {seed}", flush=True)
        one_seed(recipe, seed, tally)


if __name__ == "__main__":
    main()
