"""Road scenes with eleven classes (CamVid): the road is the class of interest. No frame of this set is ever shown."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor

from holdfast.core.contracts import Batch, Outputs, Task
from holdfast.data.samples import Samples
from holdfast.data.sources import data_root, read_images
from holdfast.models.unet import UNet
from holdfast.tasks.ingredients import camera_pipelines
from holdfast.tasks.segmentation import segmentation

CLASSES, ROAD, UNLABELLED = 11, 3, 11
SIZE = (48, 64)
"""Of the network's input; the frames have 180 x 240."""

VAL_SHARE = 0.15
"""Of each recording, its end: neighbouring frames look alike."""


def camvid() -> Task:
    """The task; ``report`` are the set's own validation frames."""
    return segmentation(
        name="camvid",
        build_model=partial(UNet, outputs=CLASSES),
        data=_split,
        pipelines=camera_pipelines(SIZE),
        foreground=ROAD,
        ignore=UNLABELLED,
        pixel_px=3.75,
    )


def mean_iou(outputs: Outputs, batch: Batch) -> float:
    """Intersection over union of each class that occurs, over all frames, then the mean of the classes."""
    mask: Tensor = batch["mask"]
    counts = mask != UNLABELLED
    pairs = CLASSES * mask[counts] + outputs.argmax(1)[counts]
    table = torch.bincount(pairs, minlength=CLASSES**2).view(CLASSES, CLASSES).double()
    both, either = table.diag(), table.sum(0) + table.sum(1) - table.diag()
    return float((both / either)[table.sum(1) > 0].mean())


@cache
def _split(split: str) -> Samples:
    if split not in ("train", "val", "report"):
        raise KeyError(split)
    folder = data_root("driving_camvid", "val" if split == "report" else "train")
    paths = sorted((folder / "images").iterdir())
    if split != "report":
        paths = [path for path in paths if (split == "val") == _is_late(path, paths)]
    masks = read_images([folder / "masks" / f"{path.stem}.png" for path in paths], "L")
    rows, columns = (torch.arange(n) * full // n for n, full in zip(SIZE, masks.shape[2:], strict=True))
    return Samples(image=read_images(paths), mask=torch.from_numpy(masks)[:, 0][:, rows][:, :, columns].long())


def _is_late(path: Path, paths: list[Path]) -> bool:
    recording = [other for other in paths if other.name[:6] == path.name[:6]]
    return recording.index(path) >= (1 - VAL_SHARE) * len(recording)
