"""Does a lane net that was hardened on drawn roads sway less on a real clip that nobody has labelled?

OMP_NUM_THREADS=1 python benchmarks/highway_clip/measure.py RUN... > benchmarks/highway_clip/log.txt

RUN are folders of studies of the task `lanes`. The clip, 221 frames of a highway, was taken by another camera: it is
warped to what the drawn camera would see of a flat road (columns scaled by the ratio of the focal lengths, rows by
that of focal length times height, about the horizon), and edges are repeated around it. Nothing is known of where its
lines are, so what is measured is whether the outputs sway and jump. Needs opencv-python-headless.
"""

from __future__ import annotations

import sys
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from holdfast.core.fingerprint import environment
from holdfast.core.progress import Progress
from holdfast.data.road import Camera
from holdfast.data.samples import Samples
from holdfast.data.sources import data_root
from holdfast.select.stats import paired_difference, t_interval
from holdfast.verify.cases import with_clips
from holdfast.verify.cells import Cells
from holdfast.verify.measure import bench_of
from holdfast.verify.order import Order, load_source

HORIZON_PX, FOCAL_PX, HEIGHT_M = 318.0, 862.0, 1.2
"""Of the clip's camera, 960 x 540: horizon and height as its lines suggest for lanes of 3.7 m; a usual focal length."""
PIPELINES = ("train", "vehicle", "nearest")
SYMPTOMS = ("jitter_20m", "jitter_42m", "sway_20m", "flips_20m")


def clip() -> Samples:
    """The clip as the drawn camera sees it, uint8 (T, 3, H, W)."""
    import cv2

    camera = Camera()
    across = camera.focal_px / FOCAL_PX
    down = across * camera.height_m / HEIGHT_M
    warp = np.array([[across, 0, camera.width_px / 2 - across * 480],
                     [0, down, camera.horizon_px - down * HORIZON_PX]])  # fmt: skip
    video = cv2.VideoCapture(str(data_root("road_udacity", "solidWhiteRight.mp4")))
    frames = []
    while True:
        more, frame = video.read()
        if not more:
            break
        # Down to about the target's resolution by areas, or the warp would alias.
        small = cv2.resize(frame, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
        fine = warp @ np.array([[4, 0, 1.5], [0, 4, 1.5], [0, 0, 1]])
        seen = cv2.warpAffine(small, fine, (camera.width_px, camera.height_px), borderMode=cv2.BORDER_REPLICATE)
        frames.append(np.ascontiguousarray(seen[..., ::-1].transpose(2, 0, 1)))
    return Samples(image=torch.from_numpy(np.stack(frames)), frame=torch.arange(len(frames)))


def symptoms(weights: Path, frames: Samples, folder: Path) -> tuple[str, int, dict[str, dict[str, float]]]:
    """Recipe, seed, and each symptom under each pipeline."""
    source = load_source(weights)
    source = replace(source, task=with_clips(source.task, {"highway": lambda: frames}))
    order = Order(source=source, out=folder, subjects=("eager:fp32",), preprocessing=PIPELINES, frames="highway",
                  sequences="")  # fmt: skip
    with Progress(quiet=True) as progress, Cells(order, progress) as cells:
        bench, task = bench_of(cells), cells.task
        found = {}
        for pipeline in PIPELINES:
            outputs, batch = cells.outputs(cells.opened[0], "highway", pipeline), cells.batch("highway", pipeline)
            found[pipeline] = {m.name: bench.values(m, (outputs,), batch)[0].nanmean().item() for m in task.symptoms}
    return str(source.about["recipe"]), int(source.about["init_seed"]), found


def main() -> None:
    torch.set_num_threads(1)
    print({key: value for key, value in environment().items() if key != "time"})
    frames = clip()
    rows: dict[str, dict[int, dict[str, dict[str, float]]]] = defaultdict(dict)
    with tempfile.TemporaryDirectory() as folder:
        for run in sys.argv[1:]:
            for weights in sorted(Path(run).glob("weights/*/last.safetensors")):
                recipe, seed, found = symptoms(weights, frames, Path(folder))
                rows[recipe][seed] = found
                print(f"{recipe} {seed}: {found}", flush=True)
    for symptom in SYMPTOMS:
        print(f"\n{symptom}, mean [95 % t interval] over seeds; behind it the difference from the baseline, paired")
        for recipe, seeds in rows.items():
            parts = []
            for pipeline in PIPELINES:
                values = [found[pipeline][symptom] for _, found in sorted(seeds.items())]
                mean = t_interval(values)
                common = sorted(set(seeds) & set(rows["baseline"]))
                gap = paired_difference([seeds[s][pipeline][symptom] for s in common],
                                        [rows["baseline"][s][pipeline][symptom] for s in common]).interval  # fmt: skip
                parts.append(f"{pipeline} {mean.estimate:.3f} [{mean.low:.3f}, {mean.high:.3f}] {gap.estimate:+.3f} "
                             f"[{gap.low:+.3f}, {gap.high:+.3f}]")  # fmt: skip
            print(f"  {recipe:20} {'   '.join(parts)}")


if __name__ == "__main__":
    main()
