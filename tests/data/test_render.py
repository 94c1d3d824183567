from __future__ import annotations

from dataclasses import replace

import pixel_twins
import pytest
import torch
from bare_roads import bare_frames, centroid, middle

from holdfast.data.preprocess import Resize
from holdfast.data.render import render
from holdfast.data.road import DASH_M, DASH_PERIOD_M, LINE_WIDTH_M, Camera, draw_frames, ego_lines

CAMERA = Camera()
ROWS = range(110, 240, 7)


def distance_of(row_px: float) -> torch.Tensor:
    return torch.tensor([CAMERA.focal_px * CAMERA.height_m / (row_px - CAMERA.horizon_px)])


def lines_at(scene, row_px):
    """Columns of the two own lines at a row, (B, 2)."""
    distance = distance_of(row_px)
    return CAMERA.column(ego_lines(scene, distance), distance)[..., 0]


def test_lines_lie_where_the_truth_says_to_a_hundredth_of_a_pixel():
    scene = bare_frames(8)
    image = render(scene, CAMERA)[:, 0].float()
    checked = 0
    for row in ROWS:
        reach = 0.75 * float(scene.lane_width_m.min()) * CAMERA.focal_px / float(distance_of(row + 0.5)) / 2
        for frame, columns in enumerate(lines_at(scene, row + 0.5).tolist()):
            for column in columns:
                if reach + 2 < column < CAMERA.width_px - reach - 2:
                    assert middle(image[frame, row], column, reach) == pytest.approx(column, abs=0.01)
                    checked += 1
    assert checked > 100


def test_truth_in_pixels_of_the_network_lies_on_the_resized_line():
    """Half-pixel conventions of camera, resize and truth agree: x0.4 moves a line by a factor, not by an offset."""
    scene = bare_frames(8)
    small = Resize(size=(96, 160))(render(scene, CAMERA).float())[:, 0]
    errors = []
    for row in range(48, 90, 3):
        expected = lines_at(scene, (row + 0.5) / 0.4) * 0.4
        for frame, columns in enumerate(expected.tolist()):
            errors += [centroid(small[frame, row], x, 5.0) - x for x in columns if 8 < x < 152]
    errors = torch.tensor(errors)
    assert len(errors) > 80
    assert float(errors.mean().abs()) < 0.01
    assert float(errors.abs().max()) < 0.1


def test_pixels_are_mixed_by_the_share_that_a_line_covers():
    scene = bare_frames(2)
    image = render(scene, CAMERA)[:, 1].float()
    for row in (115, 150, 200):
        wide = LINE_WIDTH_M * CAMERA.focal_px / float(distance_of(row + 0.5))
        for frame, columns in enumerate(lines_at(scene, row + 0.5).tolist()):
            for column in columns:
                expected = pixel_twins.stripe_cover(column - wide / 2, column + wide / 2, CAMERA.width_px)
                near = slice(max(0, int(column - wide - 2)), int(column + wide + 2))
                found = (image[frame, row] - 50) / 200
                torch.testing.assert_close(found[near], torch.tensor(expected)[near], atol=0.004, rtol=0)


def test_dashes_cover_their_share_of_a_row():
    scene = bare_frames(1)
    scene = replace(scene, dashed=torch.ones_like(scene.dashed))
    image = render(scene, CAMERA)[0, 0].float()
    solid = render(bare_frames(1), CAMERA)[0, 0].float()
    phase = float(scene.travelled_m[0] + scene.dash_phase_m[0, 1])
    shares = set()
    for row in range(105, 230, 5):
        column = int(lines_at(scene, row + 0.5)[0, 0])
        near, far = float(distance_of(row + 1.0)), float(distance_of(float(row)))
        expected = pixel_twins.painted_share(near, far, phase, DASH_M, DASH_PERIOD_M)
        drawn = (image[row, column] - 50) / (solid[row, column] - 50)
        assert float(drawn) == pytest.approx(expected, abs=0.02)
        shares.add(round(expected))
    assert shares == {0, 1}


def test_pixels_depend_on_the_frame_alone():
    scene = draw_frames([(2, i) for i in range(9)])
    together = render(scene, CAMERA)
    assert together.shape == (9, 3, 240, 400)
    assert together.dtype == torch.uint8
    order = torch.tensor([8, 0, 4, 5])
    assert torch.equal(render(scene[order], CAMERA), together[order])
    assert torch.equal(render(scene[6:7], CAMERA), together[6:7])
    assert torch.equal(render(scene, CAMERA), together)


def test_sensor_noise_has_the_deviation_asked_for():
    scene = bare_frames(1)
    noisy = render(replace(scene, noise=torch.tensor([4.0])), CAMERA).float() - render(scene, CAMERA).float()
    assert float(noisy[..., :30, :].std()) == pytest.approx(4.0, rel=0.05)
    assert float(noisy.mean()) == pytest.approx(0, abs=0.05)


def test_texture_fades_with_distance_and_moves_with_the_road():
    scene = replace(bare_frames(1), grain=torch.tensor([10.0]))
    image = render(scene, CAMERA)[0, 0].float()
    away = [image[row, :60].std() for row in (100, 130, 230)]
    assert float(away[0]) < float(away[1]) < float(away[2])
    ahead = render(replace(scene, travelled_m=scene.travelled_m + 3.0), CAMERA)[0, 0].float()
    assert not torch.equal(ahead[200:], image[200:])


def test_a_lead_car_hides_the_road_up_to_its_wheels_and_nothing_else():
    scene = bare_frames(1)
    scene = replace(scene, offset_m=scene.offset_m * 0, heading=scene.heading * 0)
    scene = replace(scene, curvature_per_m=scene.curvature_per_m * 0, car_lane=scene.car_lane * 0)
    car = replace(scene, car_m=torch.tensor([20.0]), car_colour=torch.full((1, 3), 200.0))
    changed = (render(car, CAMERA) != render(scene, CAMERA)).any(dim=1)[0]
    rows, columns = changed.any(dim=1).nonzero()[:, 0], changed.any(dim=0).nonzero()[:, 0]
    ground = CAMERA.horizon_px + CAMERA.focal_px * CAMERA.height_m / 20
    half = CAMERA.focal_px * 0.9 / 20
    assert int(rows.max()) == int(ground)
    assert int(columns.min()) == int(200 - half)
    assert int(columns.max()) == int(200 + half)


def test_a_shadow_darkens_the_road_and_leaves_the_sky():
    scene = bare_frames(1)
    shaded = replace(scene, shadow_light=torch.tensor([0.6]), shadow_length_m=torch.tensor([15.0]))
    before, after = render(scene, CAMERA).float(), render(shaded, CAMERA).float()
    assert torch.equal(before[:, :, :80], after[:, :, :80])
    ratio = (after / before)[:, :, 90:]
    assert float(ratio.min()) == pytest.approx(0.6, abs=0.02)
    assert float(ratio.max()) == pytest.approx(1.0, abs=0.02)
