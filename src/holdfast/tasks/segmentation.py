"""Segmentation of one class: IoU, edges of the mask in pixels at fixed rows, and pixels that flip between subjects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from holdfast.core.contracts import Batch, Drift, Metric, Outputs, Picture, Pipeline, Task
from holdfast.core.space import InputSpace
from holdfast.tasks.edges import edge_shift
from holdfast.tasks.ingredients import by_column, image_pipelines, image_space, require, rgb_frame
from holdfast.tasks.masks import MaskReading, flipped_share, miscounted_rows, outline, pixel_divergence, pixel_mixture

__all__ = ["segmentation"]

ROWS: Mapping[str, float] = {"far": 0.25, "middle": 0.5, "near": 0.75}


def segmentation(
    *, name: str = "segmentation", build_model: Callable[[], nn.Module] | None = None,
    data: Callable[[str], Any] | None = None, pipelines: Mapping[str, Pipeline] | None = None,
    space: InputSpace | None = None, image: str = "image", mask: str = "mask", group: str | None = None,
    foreground: int = 1, ignore: int = -100, rows: Mapping[str, float] = ROWS, pixel_px: float = 1.0,
    failing_iou: float = 0.5, fingerprint: str = "",
) -> Task:  # fmt: skip
    """A task whose model gives a mask; see `holdfast.tasks.masks.MaskReading` for the forms of logits and masks.

    Metrics: ``iou`` of each frame; ``lateral_error_ROW``, distance of the mask's edges from the true ones along a
    row, in sensor pixels (see `holdfast.tasks.edges.edge_shift`); ``miscounted_rows``, share of rows whose number of
    edges is wrong, where an edge has no distance. Drifts: ``flipped``, pixels that change sides as a share of the
    reference's mask, and ``lateral_shift_ROW``. IoU alone hides both.

    Args:
        name: name of the task.
        build_model: builds the untrained model.
        data: ``split -> dataset`` of dicts with an image uint8 (C, H, W) and a mask at the model's output size.
        pipelines: named preprocessing. Default: ``train``, grey levels to 0..1.
        space: the input space. Default: the image, 0..1 in units of 1/255.
        image: name of the image in the batch.
        mask: name of the mask in the batch.
        group: name in the batch of each sample's group, such as its block of consecutive frames.
        foreground: class of interest where there are several.
        ignore: class number of pixels that do not count.
        rows: rows at which edges are compared, by name, as shares of the height.
        pixel_px: width of one output pixel in sensor pixels.
        failing_iou: a frame below it counts as broken.
        fingerprint: see `Task`.

    Raises:
        InputError: no model or no data.
    """
    require("segmentation", build_model=build_model, data=data)
    assert build_model is not None
    assert data is not None
    read = MaskReading(mask=mask, foreground=foreground, ignore=ignore)
    return Task(
        name=name,
        build_model=build_model,
        data=data,
        loss=read.loss,
        metrics=(
            Metric(name="iou", compute=read.iou, unit="1", better="higher"),
            *(_lateral_error(read, row, share, pixel_px) for row, share in rows.items()),
            Metric(
                name="miscounted_rows", compute=lambda o, b: miscounted_rows(read.true(b), read.predicted(o)), unit="1"
            ),
        ),
        space=space or image_space(image),
        pipelines=pipelines or image_pipelines(image),
        drifts=(
            Drift(
                name="flipped", compute=lambda r, o, _: flipped_share(read.predicted(r), read.predicted(o)), unit="1"
            ),
            *(_lateral_shift(read, row, share, pixel_px) for row, share in rows.items()),
        ),
        symptoms=(Metric(name="flips", compute=lambda o, _: _flips(read.predicted(o)), unit="1", over="sequence"),),
        group=by_column(group),
        divergence=lambda reference, other, _: pixel_divergence(reference, other),
        failed=lambda outputs, batch: read.iou(outputs, batch) < failing_iou,
        pseudo_label=read.pseudo_label,
        mixture=pixel_mixture,
        geometric=True,
        picture=_picture(read, image),
        fingerprint=fingerprint,
    )


def _lateral_error(read: MaskReading, row: str, share: float, pixel_px: float) -> Metric:
    def compute(outputs: Outputs, batch: Batch) -> Tensor:
        return pixel_px * edge_shift(_line(read.true(batch), share), _line(read.predicted(outputs), share))

    return Metric(name=f"lateral_error_{row}", compute=compute, unit="px")


def _lateral_shift(read: MaskReading, row: str, share: float, pixel_px: float) -> Drift:
    def compute(reference: Outputs, other: Outputs, batch: Batch) -> Tensor:
        return pixel_px * edge_shift(_line(read.predicted(reference), share), _line(read.predicted(other), share))

    return Drift(name=f"lateral_shift_{row}", compute=compute, unit="px")


def _flips(masks: Tensor) -> Tensor:
    """Pixels that change sides from frame to frame as a share of the mask, mean over a sequence (T, H, W)."""
    return flipped_share(masks[:-1], masks[1:]).double().nanmean()


def _line(mask: Tensor, share: float) -> Tensor:
    return mask[:, min(int(share * mask.shape[1]), mask.shape[1] - 1)]


def _picture(read: MaskReading, image: str) -> Callable[[Batch, Mapping[str, Outputs], int], Picture]:
    def draw(batch: Batch, outputs: Mapping[str, Outputs], index: int) -> Picture:
        frame = rgb_frame(batch[image], index)
        masks = {"truth": read.true(batch)} if read.mask in batch else {}
        masks |= {role: read.predicted(o) for role, o in outputs.items()}
        return Picture(image=frame, lines={role: outline(m[index], *frame.shape[:2]) for role, m in masks.items()})

    return draw
