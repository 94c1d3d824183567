"""Two lane lines on synthetic roads with exact ground truth, measured in metres at fixed distances ahead."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from holdfast.core.contracts import Batch, Outputs, Picture, Task
from holdfast.core.errors import InputError
from holdfast.core.space import InputSpace, Leaf
from holdfast.data.render import render
from holdfast.data.road import Scene, draw_drive, draw_frames, ego_lines, stack
from holdfast.models.lane_net import LaneNet
from holdfast.tasks.ingredients import camera_pipelines
from holdfast.tasks.lane_measures import (
    CAMERA,
    DISTANCES_M,
    METRES_PER_PX,
    RATE_HZ,
    SIZE,
    at,
    lane_drifts,
    lane_metrics,
    lane_symptoms,
    lateral_error,
)

__all__ = ["lanes"]

USUAL_LANE_M = 3.5
FAILED_M = 0.4
"""A car of 1.9 m in the middle of a lane of 3.5 m that is wrong by this much has lost half of its margin."""


def lanes(
    *,
    frames: int = 1216,
    test_frames: int = 304,
    sequences: int = 2,
    sequence_frames: int = 120,
    width: int = 26,
    seed: int = 0,
) -> Task:
    """Where do the two lines of the own lane run? Synthetic roads, 400x240 sensor, 160x96 network input.

    Outputs are float32 (B, 2, 12): columns of the left and right line at 12 distances, in pixels of the network's
    input right of its middle.

    Args:
        frames: of the training split. Recommended 1216 for a demonstration, four times as many for a table.
        test_frames: of ``val``, ``select`` and ``report`` each.
        sequences: drives of ``select_sequence`` and ``report_sequence`` each, at 20 Hz.
        sequence_frames: frames of one drive.
        width: channels of the network, see `holdfast.models.lane_net.LaneNet`.
        seed: of the roads; not of the training.
    """
    sizes = {"frames": frames, "test_frames": test_frames, "sequences": sequences, "sequence_frames": sequence_frames}
    if empty := [name for name, size in sizes.items() if size < 1]:
        raise InputError(f"{empty[0]} is {sizes[empty[0]]}", where="task 'lanes'", fix="give at least 1")
    counts = {"train": frames, "val": test_frames, "select": test_frames, "report": test_frames}
    drives = {"select_sequence": sequences, "report_sequence": sequences}
    splits = {name: (seed, number) for number, name in enumerate((*counts, *drives))}

    def data(split: str) -> _Frames | _Drives:
        key = splits[split]
        return _Drives(key, drives[split], sequence_frames) if split in drives else _Frames(key, counts[split])

    return Task(
        name="lanes",
        build_model=partial(_build_model, width),
        data=data,
        loss=_loss,
        metrics=lane_metrics(),
        drifts=lane_drifts(),
        symptoms=lane_symptoms(FAILED_M),
        space=InputSpace({"image": Leaf()}),
        pipelines=camera_pipelines(SIZE),
        group=_group,
        divergence=_divergence,
        failed=_failed,
        pseudo_label=_pseudo_label,
        geometric=True,
        traces=_traces,
        picture=_picture,
        fingerprint=f"lanes {seed=} {sizes} {CAMERA}",
    )


def _build_model(width: int) -> LaneNet:
    """The network with its rows and prior where the camera sees an ordinary lane from the middle of it."""
    rows = CAMERA.row(torch.tensor(DISTANCES_M)) * (SIZE[0] / CAMERA.height_px)
    lines = torch.tensor([-0.5, 0.5])[:, None] * USUAL_LANE_M / METRES_PER_PX
    return LaneNet(rows_px=rows.tolist(), expected_px=lines.tolist(), width=width, size=SIZE)


# --- data -----------------------------------------------------------------------------------------------


class _Frames:
    """Single frames, rendered when they are asked for; frame ``i`` depends on the key and ``i`` alone."""

    def __init__(self, key: tuple[int, int], count: int) -> None:
        self._key, self._count = key, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        at_index = [range(len(self))[i] for i in indices]
        return _samples(draw_frames([(*self._key, i) for i in at_index]), at_index, [-1] * len(at_index))


class _Drives:
    """Drives one after the other, frame by frame in order."""

    def __init__(self, key: tuple[int, int], count: int, frames: int) -> None:
        self._scene = stack([draw_drive((*key, i), frames, RATE_HZ) for i in range(count)])
        self._frames = frames

    def __len__(self) -> int:
        return len(self._scene)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        at_index = [range(len(self))[i] for i in indices]
        drives, frames = zip(*(divmod(i, self._frames) for i in at_index), strict=True)
        return _samples(self._scene[torch.tensor(at_index)], frames, drives)


def _samples(scene: Scene, frames: Sequence[int], drives: Sequence[int]) -> list[dict[str, Any]]:
    """``image`` uint8 (3, 240, 400); ``line_px`` float32 and ``valid`` bool (2, 12); ``frame``; ``drive`` or -1."""
    line_px = ego_lines(scene, torch.tensor(DISTANCES_M)) / METRES_PER_PX
    columns = {
        "image": render(scene, CAMERA),
        "line_px": line_px,
        "valid": line_px.abs() < SIZE[1] / 2,
        "frame": torch.tensor(frames),
        "drive": torch.tensor(drives),
    }
    return [{name: column[i] for name, column in columns.items()} for i in range(len(scene))]


def _group(batch: Batch) -> list[Hashable]:
    """A drive is one group; single frames are independent."""
    return [
        ("drive", drive) if drive >= 0 else ("frame", frame)
        for drive, frame in zip(batch["drive"].tolist(), batch["frame"].tolist(), strict=True)
    ]


# --- training -------------------------------------------------------------------------------------------


def _loss(outputs: Tensor, batch: Batch) -> Tensor:
    """Smooth L1 in pixels of the network's input, mean over the points in view: (B,)."""
    valid: Tensor = batch["valid"]
    error = functional.smooth_l1_loss(outputs, batch["line_px"], reduction="none") * valid
    return error.sum(dim=(1, 2)) / valid.sum(dim=(1, 2)).clamp(min=1)


def _divergence(reference: Tensor, other: Tensor, batch: Batch) -> Tensor:
    return functional.smooth_l1_loss(other, reference, reduction="none").mean(dim=(1, 2))


def _failed(outputs: Tensor, batch: Batch) -> Tensor:
    return lateral_error(outputs, batch, distance_m=20) > FAILED_M


def _pseudo_label(outputs: Tensor, batch: Batch) -> Batch:
    line_px = outputs.detach()
    return {**batch, "line_px": line_px, "valid": line_px.abs() < SIZE[1] / 2}


# --- pictures -------------------------------------------------------------------------------------------


def _traces(outputs: Tensor, batch: Batch) -> Mapping[str, Tensor]:
    """Position of the middle of the lane 20 m ahead, in metres right of the camera."""
    curves = {"truth": batch["line_px"]} if "line_px" in batch else {}
    return {name: at(px, 20).mean(dim=1) for name, px in {**curves, "lane at 20 m": outputs}.items()}


def _picture(sensor: Batch, outputs: Mapping[str, Outputs], index: int) -> Picture:
    lines = {role: px[index] for role, px in outputs.items()}
    if "line_px" in sensor:  # a clip from elsewhere holds none
        lines = {"truth": sensor["line_px"][index], **lines}
    image = sensor["image"][index].permute(1, 2, 0).numpy()
    return Picture(
        image=image,
        lines={role: [_polyline(line, image.shape) for line in px] for role, px in lines.items()},
        caption=f"frame {int(sensor['frame'][index])}" if "frame" in sensor else "",
    )


def _polyline(line_px: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    distance = torch.tensor(DISTANCES_M)
    columns = CAMERA.column(line_px.detach().float() * METRES_PER_PX, distance)
    stretch = torch.tensor([shape[1] / CAMERA.width_px, shape[0] / CAMERA.height_px])
    return (torch.stack((columns, CAMERA.row(distance)), dim=1) * stretch).numpy()
