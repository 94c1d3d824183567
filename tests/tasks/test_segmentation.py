from __future__ import annotations

import pytest
import torch

from holdfast.core.errors import InputError
from holdfast.models.unet import UNet
from holdfast.tasks.segmentation import segmentation


def bar(left: int) -> torch.Tensor:
    """A bar four pixels wide in a mask float (1, 1, 16, 32)."""
    mask = torch.zeros(1, 1, 16, 32)
    mask[..., left : left + 4] = 1
    return mask


def logits(left: int) -> torch.Tensor:
    return 40 * bar(left) - 20


TASK = segmentation(
    build_model=UNet,
    data=lambda _: None,
    group="block",
    pixel_px=4.0,
)
METRICS = {metric.name: metric for metric in TASK.metrics}
DRIFTS = {drift.name: drift for drift in TASK.drifts}


def test_a_task_file_must_bring_model_and_data() -> None:
    with pytest.raises(InputError, match=r"task 'segmentation': needs build_model and data.*task: file\.py:name"):
        segmentation()
    with pytest.raises(InputError, match="needs data"):
        segmentation(build_model=UNet)


def test_edges_are_measured_in_sensor_pixels() -> None:
    batch = {"mask": bar(10)}
    for row in ("far", "middle", "near"):
        metric, drift = METRICS[f"lateral_error_{row}"], DRIFTS[f"lateral_shift_{row}"]
        assert (metric.unit, drift.unit) == ("px", "px")
        assert float(metric.compute(logits(12), batch)) == pytest.approx(8.0)
        assert float(drift.compute(logits(12), logits(11), batch)) == pytest.approx(4.0)


def test_rows_are_where_they_are_said_to_be() -> None:
    batch = {"mask": bar(10)}
    bent = logits(10)
    bent[..., 8, :] = logits(13)[..., 8, :]
    moved = {name: float(metric.compute(bent, batch)) for name, metric in METRICS.items() if "lateral" in name}
    assert moved == pytest.approx({"lateral_error_far": 0, "lateral_error_middle": 12, "lateral_error_near": 0})


def test_right_and_wrong_masks() -> None:
    batch = {"mask": bar(10)}
    assert float(METRICS["iou"].compute(logits(10), batch)) == 1
    assert float(METRICS["iou"].compute(logits(12), batch)) == pytest.approx(2 / 6)
    assert float(METRICS["miscounted_rows"].compute(logits(12), batch)) == 0
    assert float(METRICS["miscounted_rows"].compute(torch.full((1, 1, 16, 32), -9.0), batch)) == 1
    assert float(DRIFTS["flipped"].compute(logits(10), logits(12), batch)) == pytest.approx(1.0)
    assert TASK.failed is not None
    assert TASK.failed(logits(12), batch).tolist() == [True]
    assert TASK.failed(logits(10), batch).tolist() == [False]
    assert float(TASK.loss(logits(10), batch)) < 1e-6 < float(TASK.loss(logits(12), batch))


def test_groups_are_read_from_the_batch() -> None:
    assert TASK.group is not None
    assert TASK.group({"block": torch.tensor([3, 3, 4])}) == [3, 3, 4]


def test_picture_shows_every_mask() -> None:
    assert TASK.picture is not None
    sensor = {"image": torch.zeros(1, 3, 64, 128, dtype=torch.uint8), "mask": bar(10)}
    picture = TASK.picture(sensor, {"reference": logits(10), "deployed": logits(12)}, 0)
    assert picture.image.shape == (64, 128, 3)
    assert set(picture.lines) == {"truth", "reference", "deployed"}
    truth, deployed = (picture.lines[role][0][:, 0].mean() for role in ("truth", "deployed"))
    assert deployed - truth == pytest.approx(8, abs=0.5)


def test_several_classes() -> None:
    task = segmentation(build_model=UNet, data=lambda _: None, foreground=3, ignore=11)
    labels = torch.where(bar(10)[:, 0] > 0, 3, 0)
    outputs = torch.zeros(1, 12, 16, 32)
    outputs[:, 3] = logits(10)[:, 0]
    scores = {metric.name: float(metric.compute(outputs, {"mask": labels})) for metric in task.metrics}
    assert scores["iou"] == 1
    assert scores["lateral_error_middle"] == pytest.approx(0, abs=0.5)
