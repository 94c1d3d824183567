"""Every corruption of ImageNet-C against its slow twin, for the same draws."""

from __future__ import annotations

import corruption_twins
import numpy as np
import pytest
import torch
from corruption_twins import LegacyDraws, photo

from holdfast.core.discover import build, load, names

PARAMETERS = {
    "gaussian_noise": "SCALE", "shot_noise": "PHOTONS", "impulse_noise": "SHARE", "speckle_noise": "SCALE",
    "gaussian_blur": "SIGMA_PX", "glass_blur": "SIGMA_REACH_ROUNDS", "defocus_blur": "RADIUS_AND_SIGMA_PX",
    "motion_blur": "RADIUS_AND_SIGMA_PX", "zoom_blur": "LAST_AND_STEP", "fog": "DENSITY_AND_DECAY", "snow": "FLAKES",
    "brightness": "SHIFT", "saturate": "GAIN_AND_SHIFT", "contrast": "GAIN", "elastic_transform": "SHARES",
    "pixelate": "SHARE", "jpeg_compression": "QUALITY", "spatter": "DROPS",
}  # fmt: skip
"""Where each keeps its published parameters; frost, which needs textures, has a test of its own."""

PHOTO = photo(3, 58, 66)


def as_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float()


def test_every_corruption_of_the_benchmark_has_a_twin() -> None:
    published = {name for name in names("corruption") if load("corruption", name).family != "deploy"}
    assert published == {*PARAMETERS, "frost"}
    assert len(published) == 19


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("table", ["imagenet", "cifar"])
@pytest.mark.parametrize("name", PARAMETERS)
def test_equals_the_definition(name: str, table: str, severity: int) -> None:
    corruption = build("corruption", {name: {"table": table}})
    found = corruption.corrupt(as_tensor(PHOTO), severity, LegacyDraws(severity)).clamp(0, 255)
    parameters = getattr(corruption, PARAMETERS[name])[table][severity - 1]
    extra = {"unit": 1.0} if name == "elastic_transform" and table == "cifar" else {}
    rng = np.random.RandomState(severity)
    expected = getattr(corruption_twins, name)(PHOTO, parameters, rng, **extra)
    difference = np.abs(found[0].permute(1, 2, 0).numpy() - np.clip(expected, 0, 255))
    assert difference.mean() < 0.02, f"mean difference {difference.mean():.4f} of 255"
    assert (difference > 1.01).mean() < 1e-3
