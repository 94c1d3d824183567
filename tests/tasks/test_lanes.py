from __future__ import annotations

import pytest
import torch

from holdfast.core.errors import InputError
from holdfast.data.table import sensor_batch
from holdfast.tasks.lane_measures import CAMERA, DISTANCES_M, METRES_PER_PX
from holdfast.tasks.lanes import lanes

SPLITS = ("train", "val", "select", "report", "select_sequence", "report_sequence")


@pytest.fixture(scope="module")
def task():
    return lanes(frames=8, test_frames=6, sequences=2, sequence_frames=5)


@pytest.fixture(scope="module")
def sensor(task):
    return sensor_batch(task.data("train"), range(4))


def truth_and(task, sensor, metres):
    return task.pipelines["train"](sensor), sensor["line_px"] + metres / METRES_PER_PX


def test_splits_have_their_sizes_and_share_no_frame(task):
    assert [len(task.data(split)) for split in SPLITS] == [8, 6, 6, 6, 10, 10]
    first = {task.data(split)[0]["image"].numpy().tobytes() for split in SPLITS}
    assert len(first) == len(SPLITS)
    with pytest.raises(KeyError):
        task.data("calibration")


def test_a_sample_is_what_it_promises(task):
    sample = task.data("train")[0]
    assert sample["image"].dtype == torch.uint8
    assert sample["image"].shape == (3, 240, 400)
    assert sample["line_px"].shape == sample["valid"].shape == (2, len(DISTANCES_M))
    assert sample["valid"].dtype == torch.bool
    assert (sample["line_px"][0] < sample["line_px"][1]).all()


@pytest.mark.parametrize("split", ["report", "report_sequence"])
def test_samples_do_not_depend_on_what_is_loaded_with_them(task, split):
    data = task.data(split)
    together = data.__getitems__([5, 0, 3])
    for index, sample in zip([5, 0, 3], together, strict=True):
        for name, value in data[index].items():
            assert torch.equal(value, sample[name]), name
    assert torch.equal(data[-1]["image"], data[len(data) - 1]["image"])
    with pytest.raises(IndexError):
        data[len(data)]


def test_roads_follow_the_seed():
    def one(seed):
        return lanes(frames=2, test_frames=1, sequences=1, sequence_frames=3, seed=seed).data("train")[0]["image"]

    assert torch.equal(one(0), one(0))
    assert not torch.equal(one(0), one(1))


def test_more_frames_keep_the_ones_that_were_there(task):
    larger = lanes(frames=20, test_frames=6, sequences=3, sequence_frames=5)
    assert torch.equal(larger.data("train")[7]["image"], task.data("train")[7]["image"])
    assert torch.equal(larger.data("report_sequence")[9]["image"], task.data("report_sequence")[9]["image"])


def test_groups_are_frames_and_drives(task, sensor):
    assert task.group(sensor) == [("frame", i) for i in range(4)]
    drives = sensor_batch(task.data("report_sequence"), range(10))
    assert task.group(drives) == [("drive", 0)] * 5 + [("drive", 1)] * 5
    assert drives["frame"].tolist() == [0, 1, 2, 3, 4] * 2


def test_every_pipeline_gives_inputs_of_the_declared_range(task, sensor):
    assert {"train", "vehicle", "nearest", "aa_bicubic", "area", "point_sampled", "raw_bicubic"} <= set(task.pipelines)
    for name, pipeline in task.pipelines.items():
        batch = pipeline(sensor)
        assert batch["image"].shape == (4, 3, 96, 160)
        task.space.check(batch, where=name)
        assert torch.equal(batch["line_px"], sensor["line_px"])


def test_the_vehicle_sees_other_pixels_but_the_same_scene(task, sensor):
    grey = {name: task.pipelines[name](sensor)["image"] * 255 for name in ("train", "vehicle", "nearest", "area")}
    distance = {name: float((image - grey["train"]).abs().mean()) for name, image in grey.items()}
    assert 1.0 < distance["vehicle"] < distance["nearest"] < 8.0
    assert distance["area"] < distance["vehicle"]
    assert float((grey["vehicle"] - grey["train"]).mean().abs()) < 0.5


def test_loss_is_smooth_l1_of_what_is_in_view(task, sensor):
    batch, exact = truth_and(task, sensor, 0.0)
    torch.testing.assert_close(task.loss(exact, batch), torch.zeros(4))
    torch.testing.assert_close(task.loss(exact + 3.0, batch), torch.full((4,), 2.5))
    hidden = {**batch, "valid": batch["valid"] & (torch.arange(len(DISTANCES_M)) > 5)}
    spoiled = exact.clone()
    spoiled[..., :6] += 50
    torch.testing.assert_close(task.loss(spoiled, hidden), torch.zeros(4))
    blind = {**batch, "valid": torch.zeros_like(batch["valid"])}
    assert torch.equal(task.loss(spoiled, blind), torch.zeros(4))


def test_broken_means_half_a_margin_lost_at_20_m(task, sensor):
    for metres, broken in ((0.35, False), (-0.45, True)):
        batch, outputs = truth_and(task, sensor, metres)
        assert task.failed(outputs, batch).tolist() == [broken] * 4


def test_divergence_is_symmetric_and_teaches(task, sensor):
    batch, outputs = truth_and(task, sensor, 0.1)
    other = (outputs + 1.5).requires_grad_()
    value = task.divergence(outputs, other, batch)
    torch.testing.assert_close(value, torch.ones(4))
    torch.testing.assert_close(task.divergence(other, outputs, batch), value)
    value.sum().backward()
    assert float(other.grad.abs().min()) > 0
    labelled = task.pseudo_label(other, batch)
    assert not labelled["line_px"].requires_grad
    assert torch.equal(task.loss(other.detach(), labelled), torch.zeros(4))


def test_untrained_model_finds_lines_near_the_usual_lane(task, sensor):
    torch.manual_seed(0)
    model = task.build_model().eval()
    with torch.no_grad():
        outputs = task.forward(model, task.pipelines["train"](sensor))
    assert outputs.shape == (4, 2, len(DISTANCES_M))
    assert (outputs[:, 0] < outputs[:, 1]).all()


def test_picture_draws_lines_on_the_paint(task):
    from bare_roads import bare_frames

    from holdfast.data.render import render
    from holdfast.data.road import ego_lines

    scene = bare_frames(1)
    line_px = ego_lines(scene, torch.tensor(DISTANCES_M)) / METRES_PER_PX
    sensor = {"image": render(scene, CAMERA), "line_px": line_px, "frame": torch.tensor([3])}
    picture = task.picture(sensor, {"deployed": line_px + 2.0}, 0)
    assert picture.image.shape == (240, 400, 3)
    assert set(picture.lines) == {"truth", "deployed"}
    for polyline in picture.lines["truth"]:
        for x, y in polyline[:6]:
            if 2 < x < 398 and y < 238:
                assert picture.image[int(y), int(x) - 1 : int(x) + 2, 0].max() > 150
    shift = picture.lines["deployed"][0] - picture.lines["truth"][0]
    assert shift[:, 0] == pytest.approx(5.0, abs=1e-3)
    assert shift[:, 1] == pytest.approx(0.0)


def test_traces_follow_the_middle_of_the_lane(task):
    drive = sensor_batch(task.data("report_sequence"), range(5))
    traces = task.traces(drive["line_px"] + 0.5 / METRES_PER_PX, drive)
    others = [name for name in traces if name != "truth"]
    assert len(others) >= 1
    torch.testing.assert_close(traces[others[0]] - traces["truth"], torch.full((5,), 0.5))


@pytest.mark.parametrize("name", ["frames", "test_frames", "sequences", "sequence_frames"])
def test_empty_splits_are_refused(name):
    with pytest.raises(InputError, match=f"{name} is 0"):
        lanes(**{name: 0})
