"""Steering of a model car on a running track, from single frames of its camera.

The frames of a part are in order of time, 1.6 s apart; ``clip`` holds 100 consecutive ones at 20 a second. The first
drive of the recording is cut into blocks of time for training, validation and selection; the later drive (``test``
and ``clip``) is only reported. The track is driven in one direction, so frames are never mirrored.
"""

from __future__ import annotations

from functools import cache, partial

from holdfast.core.contracts import Task
from holdfast.data.augment import CameraJitter
from holdfast.data.samples import Copies, Samples
from holdfast.data.sources import data_root, read_images, read_table
from holdfast.models.small_cnn import SmallCNN
from holdfast.tasks.ingredients import camera_pipelines
from holdfast.tasks.regression import regression

ROWS = slice(88, 224)
"""The lower 60 % of the frame: above it there are buildings, by which a net would learn the place."""

SIZE = (51, 84)
"""Of the network's input: 136 x 224 at 3/8."""

BLOCK = 10
"""Frames of one group: 16 s of driving."""

RATE_HZ = 20.0

SPLITS = {
    "train": ("train", 0, 310),
    "val": ("train", 310, 340),
    "select": ("train", 340, 400),
    "report": ("test", 0, 119),
    "report_sequence": ("clip", 0, 100),
    "calibration": ("train", 0, 310),
}
"""Part of the recording, first frame, end."""


def rc_track(copies: int = 12) -> Task:
    """The task; every training frame is seen in ``copies`` versions of light, colour, noise and camera pitch."""

    def data(split: str) -> Samples | Copies:
        frames = _frames(*SPLITS[split])
        change = CameraJitter(gain=0.5, colour=0.15, bias=15, noise=6, rows_px=12)
        return Copies(base=frames, change=change, count=copies) if split == "train" else frames

    return regression(
        name="rc_track",
        build_model=partial(
            SmallCNN, inputs=3, outputs=1, size=SIZE, widths=(8, 16, 32, 32), hidden=16, pool=2, dropout=0.3
        ),
        data=data,
        pipelines=camera_pipelines(SIZE),
        target="steering",
        unit="steering",
        group="block",
        huber=0.1,
        constant=float(_frames(*SPLITS["train"]).columns["steering"].mean()),
        rate_hz=RATE_HZ,
        failing_error=0.15,
    )


@cache
def _frames(part: str, first: int, end: int) -> Samples:
    root = data_root("rc_track")
    rows = [row for row in read_table(root / "labels.csv", "file", "part", "angle") if row["part"] == part][first:end]
    images = read_images([root / "images" / row["file"] for row in rows])
    return Samples(
        image=images[:, :, ROWS],
        steering=[float(row["angle"]) for row in rows],
        block=[0 if part == "clip" else i // BLOCK for i in range(first, first + len(rows))],
    )
