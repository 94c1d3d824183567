"""Lane masks on a model-car track at night: trained with the room dark, reported with the lights on.

The frames come from one drive a session; the frame number is time. Neighbouring frames look alike (one even occurs
twice, labelled twice), so `no_lights` is cut into blocks of time, never at random, and the whole `lights` session is
kept for the report.
"""

from __future__ import annotations

from functools import cache

import torch
from torch.nn.functional import avg_pool2d

from holdfast.core.contracts import Task
from holdfast.data.augment import CameraJitter
from holdfast.data.samples import Copies, Samples
from holdfast.data.sources import data_root, read_images, read_table
from holdfast.models.unet import UNet
from holdfast.tasks.ingredients import camera_pipelines
from holdfast.tasks.segmentation import segmentation

SIZE = (64, 160)
"""Of the network's input; the frames have 256 x 640."""

SHRINK = 4
BLOCK = 20
"""Frames of one group: about as long as a piece of track stays in view."""

SPLITS = {
    "train": ("no_lights", 0, 211),
    "val": ("no_lights", 211, 400),
    "select": ("no_lights", 400, 1000),
    "report": ("lights", 0, 1000),
    "calibration": ("no_lights", 0, 211),
}
"""Session, first frame, end."""


def lane_robocar(copies: int = 12) -> Task:
    """The task; every training frame is seen in ``copies`` versions of light, colour and noise."""

    def data(split: str) -> Samples | Copies:
        frames = _frames(*SPLITS[split])
        change = CameraJitter(gain=0.5, colour=0.1, bias=10, noise=4)
        return Copies(base=frames, change=change, count=copies) if split == "train" else frames

    return segmentation(
        name="lane_robocar",
        build_model=UNet,
        data=data,
        pipelines=camera_pipelines(SIZE),
        group="block",
        pixel_px=SHRINK,
    )


@cache
def _frames(session: str, first: int, end: int) -> Samples:
    root = data_root("lane_robocar")
    rows = [row for row in read_table(root / "index.csv", "name", "session") if row["session"] == session]
    names = sorted((row["name"] for row in rows if first <= _time(row["name"]) < end), key=_time)
    masks = read_images([root / "masks" / f"{name}.png" for name in names], "L")
    return Samples(
        image=read_images([root / "images" / f"{name}.png" for name in names]),
        mask=avg_pool2d(torch.from_numpy(masks).float() / 255, SHRINK),
        block=[_time(name) // BLOCK for name in names],
    )


def _time(name: str) -> int:
    """Frame number: 215 of ``no_lights_0215`` and 36 of ``no_lights_0036_s``."""
    return int(name.removesuffix("_s").rsplit("_", 1)[1])
