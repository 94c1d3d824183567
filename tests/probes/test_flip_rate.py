from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from corruption_twins import photo
from probe_benches import bench_of

from holdfast.core.errors import InputError, NoEffectError
from holdfast.data.corruptions.draws import Draws
from holdfast.data.perturbations import PERTURBATIONS, frames
from holdfast.data.preprocess import Pipeline, Scale
from holdfast.probes.flip_rate import FlipRate

FRAMES = torch.stack([torch.from_numpy(photo(i, 20, 24)) for i in range(4)]).permute(0, 3, 1, 2).contiguous()
TRAIN = {"train": Pipeline(steps=(Scale(),))}


def flips(labels: torch.Tensor, *, first: bool) -> torch.Tensor:
    """Labels (T, B) -> share of frames whose label differs from the one before, or from the first."""
    before = labels[:1].expand_as(labels[1:]) if first else labels[:-1]
    return (labels[1:] != before).double().mean(0)


@pytest.mark.parametrize("name", ["brightness", "gaussian_noise", "translate"])
def test_the_rate_is_the_share_of_frames_that_differ(name: str) -> None:
    bench = bench_of(FRAMES, TRAIN)
    [row] = list(FlipRate(perturbations=(name,), seed=2).run(bench))
    made = frames(FRAMES.float(), name, Draws(range(4), seed=2, purpose=f"flip_rate {name}"))
    labels = torch.stack([bench.model(frame / 255).argmax(1) for frame in made])
    expected = flips(labels, first=PERTURBATIONS[name].against_first)
    assert row.values.tolist() == pytest.approx(expected.tolist())
    assert (row.row.condition, row.row.metric, row.row.unit) == (name, "flipped", "1")
    assert name != "brightness" or row.row.value > 0


def test_the_mean_is_over_all_perturbations() -> None:
    found = list(FlipRate(samples=2).run(bench_of(FRAMES, TRAIN)))
    values = {m.row.condition: m.values for m in found}
    assert set(values) == {*PERTURBATIONS, "mean"}
    assert values["mean"] == pytest.approx(sum(values[name] for name in PERTURBATIONS) / len(PERTURBATIONS))


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_frames_change_by_small_steps_and_hold_the_clean_image(name: str) -> None:
    image = FRAMES.float()
    made = list(frames(image, name, Draws(range(4))))
    assert len(made) == PERTURBATIONS[name].length
    assert all(frame.shape == image.shape and frame.min() >= 0 and frame.max() <= 255 for frame in made)
    if name != "motion_blur":  # which is blurred from the first frame on
        assert min(float((frame - image).abs().mean()) for frame in made) < 1e-3
    if not PERTURBATIONS[name].against_first:
        steps = [float((a - b).abs().mean()) for a, b in pairwise(made)]
        assert max(steps) < 0.5 * float((image - image.flip(3)).abs().mean())


def test_rotation_turns_clockwise_about_the_middle() -> None:
    image = torch.zeros(1, 1, 31, 41)
    image[0, 0, 5, 20] = 255.0  # above the middle
    [*made] = frames(image, "rotate", Draws([0]))
    column = made[-1][0, 0].amax(0).argmax()  # 15 degrees
    assert int(column) == round(20 + 10 * torch.sin(torch.deg2rad(torch.tensor(15.0))).item())


def test_moved_pixels_are_flagged_where_targets_hold_places() -> None:
    bench = bench_of(FRAMES, TRAIN, geometric=True)
    found = {m.row.condition: m.row.flags for m in FlipRate(perturbations=("scale", "brightness")).run(bench)}
    assert found == {"scale": ("labels_would_move",), "brightness": ()}


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(InputError, match=r"no perturbation 'rotat'.*rotate"):
        FlipRate(perturbations=("rotat",))
    with pytest.raises(NoEffectError, match="compares no two outputs"):
        list(FlipRate().run(bench_of(FRAMES, TRAIN, drifts=())))
    with pytest.raises(InputError, match="no split 'reprot'"):
        list(FlipRate(split="reprot").run(bench_of(FRAMES, TRAIN)))
