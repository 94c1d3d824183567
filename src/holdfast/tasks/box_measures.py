"""Boxes: reading them from a detector's outputs, matching them, and average precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from holdfast.core.contracts import Batch, Outputs
from holdfast.models.detector import STRIDE

__all__ = ["Boxes", "average_precision", "decode", "iou", "match", "truth"]

CANDIDATES = 20


@dataclass(frozen=True)
class Boxes:
    """Boxes of one frame: ``corners`` float (n, 4), ``kinds`` int64 (n,), ``scores`` float (n,), best first."""

    corners: Tensor
    kinds: Tensor
    scores: Tensor

    def above(self, score: float) -> Boxes:
        """Those with a higher score."""
        keep = self.scores > score
        return Boxes(self.corners[keep], self.kinds[keep], self.scores[keep])


def truth(batch: Batch) -> list[Boxes]:
    """The true boxes of each frame."""
    columns = (batch["boxes"], batch["kinds"], batch["counts"])
    return [Boxes(b[n > 0], k[n > 0], n[n > 0]) for b, k, n in zip(*columns, strict=True)]


def decode(outputs: Outputs) -> list[Boxes]:
    """The boxes at local maxima of the heat, at most 20 a frame, best first."""
    heat = outputs["heat"].float().sigmoid()
    peaks = heat * (max_pool2d(heat, 3, stride=1, padding=1) == heat)
    scores, at = peaks.flatten(1).topk(min(CANDIDATES, peaks[0].numel()))
    rows, columns = heat.shape[2:]
    kinds, cell = at // (rows * columns), at % (rows * columns)
    size, offset = (_gathered(outputs[name].float(), cell) for name in ("size", "offset"))
    middle = torch.stack([cell % columns, cell // columns], dim=2) * STRIDE + STRIDE / 2
    centre = middle + offset
    corners = torch.cat([centre - size / 2, centre + size / 2], dim=2)
    return [Boxes(*frame).above(0.0) for frame in zip(corners, kinds, scores, strict=True)]


def _gathered(field: Tensor, cell: Tensor) -> Tensor:
    """Values of a field (B, 2, h, w) at cells (B, n), as (B, n, 2)."""
    return field.flatten(2).gather(2, cell[:, None].expand(-1, field.shape[1], -1)).transpose(1, 2)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes float (n, 4) with boxes (m, 4), (n, m)."""
    low, high = torch.maximum(a[:, None, :2], b[None, :, :2]), torch.minimum(a[:, None, 2:], b[None, :, 2:])
    common = (high - low).clamp(min=0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1) for boxes in (a, b)]
    return common / (areas[0][:, None] + areas[1][None] - common).clamp(min=1e-9)


def match(found: Boxes, true: Boxes, threshold: float) -> Tensor:
    """Index of the true box that each found box takes, best scores first, or -1; int64 (n,)."""
    overlap = iou(found.corners, true.corners)
    overlap = overlap.masked_fill(found.kinds[:, None] != true.kinds[None], 0.0)
    taken = torch.full((len(found.scores),), -1)
    for i in range(len(found.scores)):
        if overlap.shape[1] and overlap[i].max() >= threshold:
            taken[i] = overlap[i].argmax()
            overlap[:, taken[i]] = 0.0
    return taken


def average_precision(found: Sequence[Boxes], true: Sequence[Boxes], threshold: float) -> float:
    """Area under precision over recall of all frames together, with precision made monotone; NaN without objects.

    A found box is right when its overlap with a true one of its kind, not yet taken by a better one, reaches
    ``threshold``.
    """
    objects = sum(len(frame.scores) for frame in true)
    if objects == 0:
        return float("nan")
    right = torch.cat([match(f, t, threshold) >= 0 for f, t in zip(found, true, strict=True)]).double()
    order = torch.cat([f.scores for f in found]).argsort(descending=True, stable=True)
    hits = right[order].cumsum(0)
    precision = hits / torch.arange(1, len(hits) + 1)
    best_from_here = precision.flip(0).cummax(0).values.flip(0)
    return float((best_from_here * right[order]).sum() / objects)
