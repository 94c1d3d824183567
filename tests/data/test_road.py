from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
import torch

from holdfast.data.road import Camera, Scene, draw_drive, draw_frames, ego_lines, stack

DISTANCE_M = torch.tensor([7.0, 20.0, 42.0])


def same(a: Scene, b: Scene) -> bool:
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(Scene))


def test_camera_projects_like_a_pinhole():
    camera = Camera(width_px=400, height_px=240, hfov_deg=90, height_m=1.5, horizon=0.25)
    assert camera.focal_px == pytest.approx(200)
    assert float(camera.row(torch.tensor(10.0))) == pytest.approx(60 + 200 * 1.5 / 10)
    assert float(camera.column(torch.tensor(-2.0), torch.tensor(10.0))) == pytest.approx(200 - 40)
    edge = torch.tensor(8 * math.tan(math.radians(45)))
    assert float(camera.column(edge, torch.tensor(8.0))) == pytest.approx(400, abs=1e-3)


def test_a_frame_depends_on_its_seed_alone():
    seeds = [(0, 1, i) for i in range(5)]
    batch = draw_frames(seeds)
    assert same(draw_frames(seeds[::-1]), batch[torch.tensor([4, 3, 2, 1, 0])])
    assert same(stack([draw_frames([seed]) for seed in seeds]), batch)
    assert same(draw_frames(seeds[3:4]), batch[3:4])
    assert len({float(v) for v in batch.offset_m}) == 5
    assert not same(draw_frames([(0, 2, 0)]), batch[:1])


def test_ground_truth_is_the_polynomial_of_the_lane():
    scene = draw_frames([(1, i) for i in range(4)])
    lines = ego_lines(scene, DISTANCE_M)
    for frame in range(4):
        for i, z in enumerate(DISTANCE_M.tolist()):
            centre = float(scene.offset_m[frame]) + float(scene.heading[frame]) * z
            centre += float(scene.curvature_per_m[frame]) * z * z / 2
            half = float(scene.lane_width_m[frame]) / 2
            assert lines[frame, :, i].tolist() == pytest.approx([centre - half, centre + half], abs=1e-5)


def test_a_drive_moves_smoothly_and_keeps_its_surroundings():
    drive = draw_drive((3,), frames=60, rate_hz=20.0)
    assert len(drive) == 60
    assert same(drive, draw_drive((3,), frames=60, rate_hz=20.0))
    still = {"lane_width_m", "paint", "dashed", "dash_phase_m", "asphalt", "car_m", "light"}
    for name in still:
        values = getattr(drive, name)
        assert torch.equal(values, values[:1].expand_as(values)), name
    assert len(set(drive.noise_seed.tolist())) == 60
    steps = drive.travelled_m.double().diff()
    assert float(steps.std()) < 1e-3
    assert 15 / 20 <= float(steps.mean()) <= 30 / 20


def test_heading_of_a_drive_is_the_slope_of_its_offset():
    drive = draw_drive((4,), frames=400, rate_hz=200.0)
    way = drive.travelled_m.double()
    slope = (drive.offset_m.double()[2:] - drive.offset_m.double()[:-2]) / (way[2:] - way[:-2])
    torch.testing.assert_close(slope, drive.heading.double()[1:-1], atol=2e-3, rtol=0)


def test_the_lane_moves_less_than_the_band_could_hide():
    """Second differences of the true line are far below those that count as jitter."""
    lines = ego_lines(draw_drive((5,)), torch.tensor([20.0]))[:, 0, 0]
    assert float(lines.diff(n=2).abs().max()) < 0.02
    assert float(lines.max() - lines.min()) > 0.1


def test_scenes_are_indexed_like_tensors():
    scene = draw_frames([(0, i) for i in range(3)])
    assert len(scene[1:]) == 2
    assert same(scene[torch.tensor([2])], scene[2:])
    assert torch.equal(replace(scene, light=scene.light * 0).light, torch.zeros(3))
