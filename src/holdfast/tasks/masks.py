"""Masks of one class: how they are read from logits and labels, and how two of them compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, logsigmoid, softmax

from holdfast.core.contracts import Batch, Outputs
from holdfast.tasks.edges import row_edges

__all__ = ["MaskReading", "flipped_share", "iou", "miscounted_rows", "outline", "pixel_divergence", "pixel_mixture"]


@dataclass(frozen=True, kw_only=True)
class MaskReading:
    """How outputs and labels are read as coverage of the class of interest, float (B, H, W) in 0..1.

    Logits (B, 1, H, W) go with masks of coverage, float (B, 1, H, W) in 0..1; soft borders are welcome, since they
    say where an edge lies inside a pixel. Logits (B, K, H, W) go with masks of class numbers, int64 (B, H, W).

    Args:
        mask: name of the mask in the batch.
        foreground: class of interest; only of use with several classes.
        ignore: class number of pixels that do not count.
    """

    mask: str = "mask"
    foreground: int = 1
    ignore: int = -100

    def predicted(self, outputs: Outputs) -> Tensor:
        """Probability of the class of interest."""
        logits: Tensor = outputs
        return logits[:, 0].sigmoid() if logits.shape[1] == 1 else softmax(logits, 1)[:, self.foreground]

    def true(self, batch: Batch) -> Tensor:
        """Coverage by the class of interest; zero where pixels do not count."""
        mask: Tensor = batch[self.mask]
        return mask[:, 0] if mask.ndim == 4 else (mask == self.foreground).float()

    def counts(self, batch: Batch) -> Tensor:
        """Which pixels count, bool (B, H, W)."""
        mask: Tensor = batch[self.mask]
        return torch.ones_like(mask[:, 0], dtype=torch.bool) if mask.ndim == 4 else mask != self.ignore

    def loss(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Cross-entropy, its mean over the pixels that count, per sample (B,)."""
        mask: Tensor = batch[self.mask]
        if mask.ndim == 4:
            return binary_cross_entropy_with_logits(outputs, mask, reduction="none").mean((1, 2, 3))
        loss = cross_entropy(outputs, mask.long(), ignore_index=self.ignore, reduction="none").sum((1, 2))
        return loss / self.counts(batch).sum((1, 2)).clamp(min=1)

    def iou(self, outputs: Outputs, batch: Batch) -> Tensor:
        """`iou` of the decisions with the truth, per sample (B,)."""
        return iou(self.predicted(outputs), self.true(batch), self.counts(batch))

    def pseudo_label(self, outputs: Outputs, batch: Batch) -> Batch:
        """The batch with the decisions as its mask."""
        decided = (outputs > 0).to(batch[self.mask].dtype) if outputs.shape[1] == 1 else outputs.argmax(1)
        return {**batch, self.mask: decided}


def iou(predicted: Tensor, true: Tensor, counts: Tensor | None = None) -> Tensor:
    """``|A and B| / |A or B|`` of two masks cut at one half, per sample (B,); NaN where both are empty.

    Args:
        predicted: float (B, H, W).
        true: float (B, H, W).
        counts: bool (B, H, W), the pixels that count. Default: all.
    """
    a, b = predicted > 0.5, true > 0.5
    if counts is not None:
        a, b = a & counts, b & counts
    return (a & b).sum((1, 2)) / (a | b).sum((1, 2))


def flipped_share(reference: Tensor, other: Tensor) -> Tensor:
    """``|A xor B| / |A|`` of two masks float (B, H, W) cut at one half, per sample; NaN where A is empty."""
    a, b = reference > 0.5, other > 0.5
    size = a.sum((1, 2))
    return torch.where(size > 0, (a ^ b).sum((1, 2)) / size, torch.nan)


def miscounted_rows(true: Tensor, predicted: Tensor) -> Tensor:
    """Share of rows in which two masks float (B, H, W) show different numbers of edges, per sample."""
    wrong = [row_edges(true[:, r])[1] != row_edges(predicted[:, r])[1] for r in range(true.shape[1])]
    return torch.stack(wrong, 1).double().mean(1)


def pixel_divergence(reference: Tensor, other: Tensor) -> Tensor:
    """``KL(reference || other)`` of each pixel's distribution, mean over pixels, of logits (B, K, H, W), per sample."""
    if reference.shape[1] == 1:
        reference, other = (torch.cat([logsigmoid(-x), logsigmoid(x)], 1) for x in (reference, other))
    log_p, log_q = reference.log_softmax(1), other.log_softmax(1)
    return (log_p.exp() * (log_p - log_q)).sum(1).mean((1, 2))


def pixel_mixture(outputs: Sequence[Tensor]) -> Tensor:
    """Logits (B, K, H, W) of the mean of several predicted distributions of each pixel."""
    if outputs[0].shape[1] == 1:
        log_yes, log_no = (torch.stack([logsigmoid(sign * o) for o in outputs]).logsumexp(0) for sign in (1, -1))
        return log_yes - log_no
    return torch.stack([o.log_softmax(1) for o in outputs]).logsumexp(0)


def outline(mask: Tensor, height: int, width: int) -> list[np.ndarray]:
    """The border of a mask float (H, W) as polylines, float (n, 2) of x, y in an image of ``height`` x ``width``."""
    from contourpy import contour_generator  # comes with matplotlib

    rows, columns = mask.shape
    x = (np.arange(columns) + 0.5) * width / columns - 0.5
    y = (np.arange(rows) + 0.5) * height / rows - 0.5
    lines = contour_generator(x=x, y=y, z=mask.detach().cpu().double().numpy()).lines(0.5)
    return [np.asarray(line, dtype=float) for line in lines]
