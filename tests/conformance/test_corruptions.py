"""Every corruption that is found: range, shape, dtype, determinism; samples that know nothing of each other."""

from __future__ import annotations

import pytest
import torch
from corruption_twins import photo
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.core.contracts import ReplacesStep
from holdfast.core.discover import build, load, names
from holdfast.core.errors import InputError
from holdfast.data.corruptions.sealed import corrupted

ALL = names("corruption")
SAME_SIZE = [name for name in ALL if not isinstance(build("corruption", name), ReplacesStep)]
"""The others act where a pipeline resizes; they have tests of their own."""
FAMILIES = {"noise": 3, "blur": 4, "weather": 4, "digital": 4, "extra": 4, "deploy": 8}


def corruption_of(name):
    return build("corruption", name)


def photos(n=3, height=40, width=52, channels=3):
    frames = torch.stack([torch.from_numpy(photo(i, height, width)) for i in range(n)]).permute(0, 3, 1, 2)
    return frames[:, [k % 3 for k in range(channels)]].contiguous()


def test_the_families_are_complete():
    found = [load("corruption", name).family for name in ALL]
    assert {family: found.count(family) for family in FAMILIES} == FAMILIES


@pytest.mark.parametrize("name", SAME_SIZE)
def test_images_stay_images_and_are_not_written_to(name):
    corruption, images = corruption_of(name), photos()
    before = images.clone()
    for severity in corruption.severities:
        levels = corrupted(images, corruption, severity)
        assert levels.shape == images.shape
        assert levels.dtype == torch.uint8
        assert not torch.equal(levels, images), severity
        values = corrupted(images.float(), corruption, severity)
        assert values.dtype == torch.float32
        assert values.isfinite().all()
        assert values.min() >= 0
        assert values.max() <= 255
        assert (levels.float() - (values + 1e-3).floor()).abs().max() == 0
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", SAME_SIZE)
def test_severity_zero_is_the_identity_in_a_tensor_of_its_own(name):
    images = photos()
    found = corrupted(images, corruption_of(name), 0)
    assert torch.equal(found, images)
    assert found.data_ptr() != images.data_ptr()


@pytest.mark.parametrize("name", SAME_SIZE)
def test_a_sample_depends_on_its_key_and_the_seed_alone(name):
    corruption, images, keys = corruption_of(name), photos(4), [11, 5, 7, 2]
    order = torch.tensor([2, 0, 3, 1])
    severity = corruption.severities[len(corruption.severities) // 2]
    whole = corrupted(images.float(), corruption, severity, keys=keys)
    assert torch.equal(whole, corrupted(images.float(), corruption, severity, keys=keys))
    permuted = corrupted(images[order].float(), corruption, severity, keys=[keys[i] for i in order])
    torch.testing.assert_close(permuted, whole[order], rtol=0, atol=1e-3)
    for i in range(4):
        alone = corrupted(images[i : i + 1].float(), corruption, severity, keys=keys[i : i + 1])
        torch.testing.assert_close(alone, whole[i : i + 1], rtol=0, atol=1e-3)


RANDOM = {"gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "glass_blur", "motion_blur", "fog", "frost",
          "snow", "spatter", "elastic_transform", "sensor"}  # fmt: skip


@pytest.mark.parametrize("name", SAME_SIZE)
def test_another_seed_is_another_draw_where_there_are_draws(name):
    corruption, images = corruption_of(name), photos(1)
    first, second = (corrupted(images.float(), corruption, 3, seed=seed) for seed in (0, 1))
    assert torch.equal(first, second) == (name not in RANDOM)


@pytest.mark.parametrize("name", SAME_SIZE)
def test_any_number_of_channels(name):
    corruption = corruption_of(name)
    for channels in (1, 2, 4):
        images = photos(2, 24, 20, channels).float()
        found = corrupted(images, corruption, corruption.severities[-1])
        assert found.shape == images.shape
        assert found.isfinite().all()


@pytest.mark.parametrize("name", SAME_SIZE)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    severity=st.integers(1, 5),
    level=st.sampled_from([0, 255, None]),
)
def test_any_size_and_flat_images(name, height, width, severity, level):
    corruption = corruption_of(name)
    images = photos(1, height, width).float() if level is None else torch.full((1, 3, height, width), float(level))
    found = corrupted(images, corruption, min(severity, max(corruption.severities)))
    assert found.shape == images.shape
    assert found.isfinite().all()


def test_what_is_no_batch_of_images_is_refused():
    noise, images = corruption_of("gaussian_noise"), photos()
    with pytest.raises(InputError, match="no severity 6"):
        corrupted(images, noise, 6)
    with pytest.raises(InputError, match="no batch of images"):
        corrupted(images[0], noise, 1)
    with pytest.raises(InputError, match="2 keys for 3 images"):
        corrupted(images, noise, 1, keys=[1, 2])
    with pytest.raises(InputError, match="grey levels"):
        corrupted(images.float() * 2, noise, 1)
