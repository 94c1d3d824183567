"""The lane's middle 20 m ahead over the real clip, plainly trained and hardened nets, as the vehicle sees it.

OMP_NUM_THREADS=1 python benchmarks/highway_clip/picture.py RUN benchmarks/highway_clip/traces.svg
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from measure import clip

from holdfast.core.progress import Progress
from holdfast.core.store import atomic_path
from holdfast.report import svg
from holdfast.verify.cases import with_clips
from holdfast.verify.cells import Cells
from holdfast.verify.order import Order, load_source

RECIPES = {"baseline": "#8a8a8a", "fgsm": "#0b6fa4"}
WORDS = {"baseline": "plainly trained", "fgsm": "FGSM, half a grey level"}


def main() -> None:
    from matplotlib.figure import Figure

    torch.set_num_threads(1)
    frames, traces = clip(), {}
    with tempfile.TemporaryDirectory() as folder:
        for weights in sorted(Path(sys.argv[1]).glob("weights/*/last.safetensors")):
            source = load_source(weights)
            if source.about["recipe"] not in RECIPES:
                continue
            source = replace(source, task=with_clips(source.task, {"highway": lambda: frames}))
            order = Order(source=source, out=Path(folder), subjects=("eager:fp32",), preprocessing=("vehicle",),
                          frames="highway", sequences="")  # fmt: skip
            with Progress(quiet=True) as progress, Cells(order, progress) as cells, torch.no_grad():
                outputs, batch = cells.outputs(cells.opened[0], "highway", "vehicle"), cells.batch("highway", "vehicle")
                found = source.task.traces(outputs, batch)
            key = (int(source.about["init_seed"]), source.about["recipe"])
            traces[key] = next(value for name, value in found.items() if name != "truth").numpy()
    seeds = sorted({seed for seed, _ in traces})
    with svg.style(ink="#1a1a1a", size=9):
        drawn = Figure(figsize=(8.6, 0.9 * len(seeds) + 0.5), facecolor="white", layout="constrained")
        for axes, seed in zip(drawn.subplots(len(seeds), 1, sharex=True), seeds, strict=True):
            for recipe, colour in RECIPES.items():
                trace = traces[seed, recipe]
                axes.plot(trace - trace.mean(), color=colour, linewidth=1.1, label=WORDS[recipe])
            axes.set(ylabel=f"seed {seed}", ylim=(-0.9, 0.9))
        drawn.axes[0].legend(frameon=False, ncols=2, loc="upper right", fontsize=8)
        drawn.axes[0].set_title("lane's middle 20 m ahead, m, less its mean", loc="left", fontsize=9)
        drawn.axes[-1].set_xlabel("frame of the clip, 25 a second")
        with atomic_path(Path(sys.argv[2])) as path:
            path.write_bytes(svg.image_bytes(drawn, "svg"))


if __name__ == "__main__":
    main()
