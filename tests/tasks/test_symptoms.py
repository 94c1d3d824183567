"""What the tasks measure of outputs alone, and what they draw of clips that hold no truth."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from holdfast.tasks.classification import classification
from holdfast.tasks.lane_measures import METRES_PER_PX, SIZE
from holdfast.tasks.lanes import lanes
from holdfast.tasks.regression import regression
from holdfast.tasks.segmentation import segmentation


def _symptoms(task, outputs: Tensor) -> dict[str, float]:
    batch = {"image": torch.zeros(len(outputs), 3, 4, 4, dtype=torch.uint8)}
    return {metric.name: float(metric.compute(outputs, batch).mean()) for metric in task.symptoms}


def _of(build, **options):
    return build(build_model=nn.Identity, data=lambda split: [], **options)


def test_lines_that_sway_bend_and_jump_show_it_without_truth() -> None:
    straight = torch.linspace(-40, 40, 2)[:, None].expand(2, 12).expand(120, 2, 12)
    assert set(_symptoms(lanes(), straight).values()) == {0.0}
    time_s = torch.arange(120) / 20
    swaying = straight + 0.2 * torch.sin(2 * torch.pi * 1.0 * time_s)[:, None, None] / METRES_PER_PX
    found = _symptoms(lanes(), swaying)
    assert found["sway_20m"] == pytest.approx(0.2 / 2**0.5, rel=0.02)
    assert found["sway_42m"] == pytest.approx(0.2 / 2**0.5, rel=0.02)
    assert found["flips_20m"] == 0
    jumping = straight.clone()
    jumping[60] += 0.5 / METRES_PER_PX
    assert _symptoms(lanes(), jumping)["flips_20m"] == pytest.approx(2 / 119)
    bent = straight + torch.linspace(0, 3, 12).square()
    assert _symptoms(lanes(), bent)["bend"] > 0.1


def test_lanes_draw_a_frame_of_another_size_without_truth() -> None:
    outputs = torch.zeros(2, 2, 12)
    curves = lanes().traces(outputs, {"image": torch.zeros(2, 3, *SIZE)})
    assert list(curves) == ["lane at 20 m"]
    small, large = (
        lanes().picture({"image": torch.zeros(2, 3, h, w, dtype=torch.uint8)}, {"deployed": outputs}, 1)
        for h, w in ((240, 400), (480, 800))
    )
    assert set(small.lines) == {"deployed"}
    assert large.image.shape == (480, 800, 3)
    assert large.lines["deployed"][0] == pytest.approx(2 * small.lines["deployed"][0])


def test_other_tasks_have_symptoms_of_their_own() -> None:
    decisions = torch.eye(3)[[0, 0, 1, 1, 0]]
    assert _symptoms(_of(classification), decisions) == {"flips": 0.5}
    steering = _of(regression, rate_hz=20.0, failing_error=0.4)
    found = _symptoms(steering, torch.tensor([0.0] * 60 + [0.5] + [0.0] * 59)[:, None])
    assert found["flips"] == pytest.approx(2 / 119)
    assert found["jitter"] > 0
    assert found["sway"] > 0
    assert _of(regression).symptoms == ()
    masks = torch.full((3, 1, 4, 4), -9.0)
    masks[:, :, :, :2] = 9.0
    masks[1, :, 0, 0] = -9.0
    assert _symptoms(_of(segmentation), masks)["flips"] == pytest.approx((1 / 8 + 1 / 7) / 2)


@pytest.mark.parametrize("build", [classification, regression])
def test_pictures_do_without_truth(build) -> None:
    task = _of(build)
    drawn = task.picture({"image": torch.zeros(1, 3, 4, 4, dtype=torch.uint8)}, {"deployed": torch.ones(1, 1)}, 0)
    assert "truth" not in drawn.caption
    assert "deployed" in drawn.caption
