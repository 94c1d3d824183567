"""Objects in synthetic scenes, found by a small anchor-free detector; outputs are a dict, box counts vary."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import huber_loss, logsigmoid, smooth_l1_loss

from holdfast.core.contracts import Batch, Drift, Metric, Outputs, Picture, Task
from holdfast.core.space import InputSpace, Leaf
from holdfast.models.detector import STRIDE, Detector
from holdfast.tasks.box_measures import Boxes, average_precision, decode, match, truth
from holdfast.tasks.detection_scenes import KINDS, MOST, NET_PX, SENSOR_PX, Scenes
from holdfast.tasks.ingredients import camera_pipelines

__all__ = ["detection"]

SHOWN = 0.3
"""Score from which a box counts as detected, in drifts and pictures."""


def detection(*, scenes: int = 1024, test_scenes: int = 256, seed: int = 0) -> Task:
    """Squares, discs and diamonds, none to five in a scene; 160x160 sensor, 64x64 network input.

    Metrics per frame, NaN for empty frames: ``ap_50`` and ``ap_75``, the average precision of that frame alone at an
    overlap of 0.5 and 0.75, and ``false_boxes``, boxes above a score of 0.3 that match nothing.
    Drifts: ``moved``, how far the reference's boxes are from their partners, and ``lost``, the share without one.

    Args:
        scenes: of ``train`` and ``unlabelled`` each.
        test_scenes: of ``val``, ``select`` and ``report`` each.
        seed: of the scenes.
    """
    tests = dict.fromkeys(("val", "select", "report"), test_scenes)
    counts = {"train": scenes, **tests, "unlabelled": scenes}

    def data(split: str) -> Scenes:
        return Scenes(seed * len(counts) + list(counts).index(split), counts[split])

    return Task(
        name="detection",
        build_model=partial(Detector, classes=len(KINDS)),
        data=data,
        loss=_loss,
        metrics=(
            Metric(name="ap_50", compute=partial(_frame_ap, threshold=0.5), unit="1", better="higher"),
            Metric(name="ap_75", compute=partial(_frame_ap, threshold=0.75), unit="1", better="higher"),
            Metric(name="false_boxes", compute=_false_boxes, unit="boxes"),
        ),
        drifts=(Drift(name="moved", compute=_moved, unit="px"), Drift(name="lost", compute=_lost, unit="1")),
        space=InputSpace({"image": Leaf()}),
        pipelines=camera_pipelines((NET_PX, NET_PX)),
        divergence=_divergence,
        failed=lambda outputs, batch: _frame_ap(outputs, batch, threshold=0.5) < 0.5,
        pseudo_label=_pseudo_label,
        geometric=True,
        picture=_picture,
        fingerprint=f"detection {counts} {seed=}",
    )


# --- training -------------------------------------------------------------------------------------------


def _loss(outputs: Outputs, batch: Batch) -> Tensor:
    """Penalty-reduced focal loss of the heat, and L1 of sizes and offsets at true centres, per frame (B,)."""
    heat, at, counts = _targets(outputs["heat"], batch)
    objects = counts.sum(1).clamp(min=1)
    logits = outputs["heat"]
    p = logits.sigmoid()
    peak = (heat == 1).to(p)
    focal = -peak * (1 - p) ** 2 * logsigmoid(logits) - (1 - heat) ** 4 * p**2 * logsigmoid(-logits)
    boxes = batch["boxes"]
    size, centre = boxes[..., 2:] - boxes[..., :2], (boxes[..., 2:] + boxes[..., :2]) / 2
    wanted = {"size": size, "offset": (centre % STRIDE) - STRIDE / 2}
    total: Tensor = focal.sum((1, 2, 3)) / objects
    for name, weight in (("size", 0.1), ("offset", 0.1)):
        there = outputs[name].flatten(2).gather(2, at[:, None].expand(-1, 2, -1)).transpose(1, 2)
        gap = smooth_l1_loss(there, wanted[name].to(there), reduction="none").sum(2)
        total = total + weight * (gap * counts).sum(1) / objects
    return total


def _targets(heat: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Gaussian bumps at true centres like ``heat``; the cell of each object, int64 (B, n); which objects count."""
    rows, columns = heat.shape[2:]
    boxes, counts = batch["boxes"].to(heat), batch["counts"].to(heat)
    centre = ((boxes[..., 2:] + boxes[..., :2]) / 2 / STRIDE).clamp(min=0)
    x, y = centre[..., 0].floor().clamp(max=columns - 1), centre[..., 1].floor().clamp(max=rows - 1)
    spread = ((boxes[..., 2:] - boxes[..., :2]).amin(2) / STRIDE / 6).clamp(min=0.5)[..., None, None]
    along_x = torch.arange(columns, device=heat.device) - x[..., None, None]
    along_y = torch.arange(rows, device=heat.device)[:, None] - y[..., None, None]
    bumps = torch.exp(-(along_x**2 + along_y**2) / (2 * spread**2)) * counts[..., None, None]
    of_kind = (batch["kinds"][..., None] == torch.arange(heat.shape[1], device=heat.device)).to(heat)
    wanted = (bumps[:, :, None] * of_kind[..., None, None]).amax(1)
    return wanted, (y * columns + x).long(), counts


def _divergence(reference: Outputs, other: Outputs, batch: Batch) -> Tensor:
    """KL of each cell's heat, summed, and Huber of sizes and offsets where the reference sees an object."""
    p, q = reference["heat"], other["heat"]
    seen = p.sigmoid()
    nats = seen * (logsigmoid(p) - logsigmoid(q)) + (1 - seen) * (logsigmoid(-p) - logsigmoid(-q))
    total: Tensor = nats.sum((1, 2, 3))
    for name in ("size", "offset"):
        gap = huber_loss(other[name], reference[name], reduction="none").sum(1)
        total = total + 0.1 * (gap * seen.amax(1)).sum((1, 2))
    return total


def _pseudo_label(outputs: Outputs, batch: Batch) -> Batch:
    """The best boxes above the score as truth, padded like the batch."""
    boxes, kinds, counts = (torch.zeros_like(batch[name]) for name in ("boxes", "kinds", "counts"))
    for i, frame in enumerate(decode(outputs)):
        kept = frame.above(SHOWN)
        n = min(MOST, len(kept.scores))
        boxes[i, :n], kinds[i, :n], counts[i, :n] = kept.corners[:n], kept.kinds[:n], 1.0
    return {**batch, "boxes": boxes, "kinds": kinds, "counts": counts}


# --- measuring ------------------------------------------------------------------------------------------


def _frame_ap(outputs: Outputs, batch: Batch, *, threshold: float) -> Tensor:
    pairs = zip(decode(outputs), truth(batch), strict=True)
    return torch.tensor([average_precision([f], [t], threshold) for f, t in pairs], dtype=torch.float64)


def _false_boxes(outputs: Outputs, batch: Batch) -> Tensor:
    pairs = zip((f.above(SHOWN) for f in decode(outputs)), truth(batch), strict=True)
    return torch.tensor([float((match(f, t, 0.5) < 0).sum()) for f, t in pairs], dtype=torch.float64)


def _partners(reference: Outputs, other: Outputs) -> list[tuple[Boxes, Boxes, Tensor]]:
    """Shown boxes of both, and for each of the reference its partner in the other."""
    pairs = zip(decode(reference), decode(other), strict=True)
    shown = [(a.above(SHOWN), b.above(SHOWN)) for a, b in pairs]
    return [(a, b, match(a, b, 0.1)) for a, b in shown]


def _moved(reference: Outputs, other: Outputs, batch: Batch) -> Tensor:
    values = []
    for a, b, partner in _partners(reference, other):
        found = partner >= 0
        gap = (_centres(a.corners[found]) - _centres(b.corners[partner[found]])).norm(dim=1)
        values.append(float(gap.mean()) if len(gap) else float("nan"))
    return torch.tensor(values, dtype=torch.float64)


def _lost(reference: Outputs, other: Outputs, batch: Batch) -> Tensor:
    shares = [(partner < 0).double().mean() for _, _, partner in _partners(reference, other)]
    return torch.stack(shares)  # of nothing: NaN


def _centres(corners: Tensor) -> Tensor:
    return (corners[:, :2] + corners[:, 2:]) / 2


def _picture(sensor: Batch, outputs: Mapping[str, Outputs], index: int) -> Picture:
    shown = {"truth": truth(sensor)[index]} | {role: decode(o)[index].above(SHOWN) for role, o in outputs.items()}
    return Picture(
        image=sensor["image"][index].permute(1, 2, 0).numpy(),
        lines={role: [_outline(c) for c in boxes.corners] for role, boxes in shown.items()},
        caption=", ".join(f"{role} {len(boxes.scores)}" for role, boxes in shown.items()),
    )


def _outline(corners: Tensor) -> np.ndarray:
    left, top, right, bottom = (corners * (SENSOR_PX / NET_PX)).tolist()
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)])
