"""The deploy family: each rung of the ladder does what it says, in physical units."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from corruption_twins import photo
from torch.nn.functional import interpolate

from holdfast.core.discover import build
from holdfast.core.errors import InputError
from holdfast.data.corruptions.resample import Resample
from holdfast.data.corruptions.sealed import corrupted

PHOTOS = torch.stack([torch.from_numpy(photo(i, 120, 160)) for i in range(3)]).permute(0, 3, 1, 2).float()

# Mean absolute differences of photographs in grey levels, measured with the real libraries; made-up scenes come near.
MEASURED = {
    ("colour", 1): 0.21, ("colour", 2): 0.39, ("colour", 3): 2.2, ("colour", 4): 7.5, ("colour", 5): 34.9,
    ("chroma", 1): 0.39, ("tone", 1): 1.4, ("tone", 4): 13.0, ("sensor", 1): 0.37, ("sensor", 3): 1.6,
    ("numeric", 1): 0.03, ("numeric", 2): 0.07, ("numeric", 3): 0.29,
}  # fmt: skip


@pytest.mark.parametrize(("name", "severity"), MEASURED)
def test_pixels_change_about_as_much_as_measured(name: str, severity: int) -> None:
    found = float((corrupted(PHOTOS, build("corruption", name), severity) - PHOTOS).abs().mean())
    expected = MEASURED[name, severity]
    assert 0.4 * expected - 0.02 <= found <= 3 * expected + 0.02, found


@pytest.mark.parametrize("name", ["colour", "chroma", "codec", "numeric"])
def test_each_rung_is_worse_than_the_one_below(name: str) -> None:
    corruption = build("corruption", name)
    means = [float((corrupted(PHOTOS, corruption, s) - PHOTOS).abs().mean()) for s in corruption.severities]
    if name == "chroma":  # what is lost depends on the picture, but subsampled it loses more than a rounding
        assert means[0] < min(means[1:])
    else:
        assert means == sorted(means)


def test_geometry_moves_the_scene_by_the_pixels_it_says() -> None:
    x = torch.arange(200.0).expand(1, 1, 100, 200)
    for severity, expected in ((1, -0.1), (2, -0.5)):
        found = corrupted(x, build("corruption", "geometry"), severity) - x
        torch.testing.assert_close(found[..., 2:-2], torch.full((1, 1, 100, 196), expected), atol=1e-3, rtol=0)
    yaw = corrupted(x, build("corruption", "geometry"), 4)[0, 0, 50, 100] - x[0, 0, 50, 100]
    focal_px = 100 / np.tan(np.radians(30))
    assert float(yaw) == pytest.approx(focal_px * np.tan(np.radians(0.2)), rel=0.02)


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_resample_replaces_the_resize(severity: int) -> None:
    size = (48, 64)
    found = corrupted(PHOTOS, Resample(size=size), severity)
    expected = {
        1: lambda: interpolate(PHOTOS, size, mode="bilinear", antialias=True).round(),
        2: lambda: interpolate(PHOTOS, size, mode="area"),
        3: lambda: interpolate(PHOTOS, size, mode="bilinear"),
        4: lambda: PHOTOS[..., :120:5, :160:5].repeat_interleave(2, -1).repeat_interleave(2, -2),
        5: lambda: interpolate(PHOTOS, size, mode="nearest-exact"),
    }[severity]()
    if severity == 2:
        assert float((found - expected).abs().mean()) < 6  # torch takes every touched pixel wholly
    elif severity == 4:  # every other output pixel stands exactly on an input pixel
        torch.testing.assert_close(found[..., ::2, ::2], expected[..., ::2, ::2], atol=1e-2, rtol=0)
    else:
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_resample_without_a_size_says_so() -> None:
    with pytest.raises(InputError, match="to which size"):
        corrupted(PHOTOS, Resample(), 1)


def test_read_noise_is_drawn_for_every_sample() -> None:
    noise = corrupted(PHOTOS[:1].expand(2, -1, -1, -1).clone(), build("corruption", "sensor"), 3) - PHOTOS[:1]
    assert noise.std() == pytest.approx(2.0, rel=0.1)
    assert not torch.equal(noise[0], noise[1])
