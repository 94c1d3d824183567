"""Milliseconds a frame: drawing, rendering and preprocessing the roads of the lanes task, on one thread.

python benchmarks/renderer/measure.py [rounds] > benchmarks/renderer/log.txt
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import torch

from holdfast.core.fingerprint import environment
from holdfast.data.render import render
from holdfast.data.road import Camera, draw_frames
from holdfast.tasks.lanes import lanes

FRAMES = 64


def cpu_ms(call: Callable[[], object], frames: int) -> float:
    """CPU milliseconds of this process, per frame."""
    began = time.process_time()
    call()
    return (time.process_time() - began) * 1e3 / frames


def calls() -> dict[str, tuple[Callable[[], object], int]]:
    """What is timed, with the number of frames that each call handles."""
    task, seeds = lanes(), [(0, i) for i in range(FRAMES)]
    scene = draw_frames(seeds)
    larger = Camera(width_px=640, height_px=384)
    train = task.data("train")
    batch = {"image": render(scene, Camera())}
    timed: dict[str, tuple[Callable[[], object], int]] = {
        "render 400x240, 1 frame": (partial(render, scene[:1], Camera()), 1),
        f"render 400x240, {FRAMES} frames": (partial(render, scene, Camera()), FRAMES),
        f"render 640x384, {FRAMES} frames": (partial(render, scene, larger), FRAMES),
        "draw the scenes": (partial(draw_frames, seeds), FRAMES),
        "samples of the task (draw, render, truth)": (partial(train.__getitems__, range(FRAMES)), FRAMES),
    }
    for name, pipeline in task.pipelines.items():
        timed[f"pipeline {name}"] = (partial(pipeline, batch), FRAMES)
    return timed


def main() -> None:
    torch.set_num_threads(1)
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    print({key: value for key, value in environment().items() if key != "time"})
    print(f"load average before: {os.getloadavg()[0]:.2f}; n = {rounds} interleaved rounds; CPU ms a frame, one thread")
    timed, found = calls(), {}
    for _ in range(rounds):
        for name, (call, frames) in timed.items():
            found.setdefault(name, []).append(cpu_ms(call, frames))
    print(f"{'':44}{'median':>8}{'min':>8}{'max':>8}")
    for name, values in found.items():
        print(f"{name:44}{statistics.median(values):8.2f}{min(values):8.2f}{max(values):8.2f}")


if __name__ == "__main__":
    main()
