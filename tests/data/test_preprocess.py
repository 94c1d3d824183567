from __future__ import annotations

import numpy as np
import pixel_twins
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from holdfast.core.errors import InputError
from holdfast.data.preprocess import (
    NV12,
    Crop,
    Gain,
    Gamma,
    IntegerBilinear,
    Pipeline,
    PointSample,
    Resize,
    RoundUint8,
    Scale,
)

SIZES = [(8, 12), (7, 9), (30, 44)]  # smaller by 2.5, smaller by odd factors, larger


@pytest.fixture
def sensor():
    return torch.randint(0, 256, (2, 3, 20, 30), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def each_channel(twin, image, *arguments, **named):
    return np.stack([[twin(channel.numpy(), *arguments, **named) for channel in one] for one in image])


@pytest.mark.parametrize("size", SIZES)
def test_integer_bilinear_equals_its_twin_exactly(sensor, size):
    expected = each_channel(pixel_twins.integer_bilinear, sensor, size, bits=11)
    assert np.array_equal(IntegerBilinear(size=size)(sensor.float()).numpy(), expected)


@pytest.mark.parametrize("size", SIZES)
def test_integer_bilinear_is_float_bilinear_rounded(sensor, size):
    exact = each_channel(pixel_twins.bilinear, sensor, size)
    # Half a level of rounding, and two weights that are off by up to 2^-12 each.
    assert np.abs(IntegerBilinear(size=size)(sensor.float()).numpy() - exact).max() <= 0.5 + 4 * 255 / 2**12


@pytest.mark.parametrize("size", SIZES)
def test_bilinear_without_antialiasing_equals_its_twin(sensor, size):
    expected = each_channel(pixel_twins.bilinear, sensor, size)
    np.testing.assert_allclose(Resize(size=size, antialias=False)(sensor.float()), expected, atol=1e-3)


@pytest.mark.parametrize("size", [(8, 12), (5, 10)])
def test_area_equals_its_twin(sensor, size):
    expected = each_channel(pixel_twins.area, sensor, size)
    np.testing.assert_allclose(Resize(size=size, kernel="area")(sensor.float()), expected, atol=1e-3)


@pytest.mark.parametrize("size", SIZES)
def test_antialiased_bilinear_is_that_of_pillow(sensor, size):
    expected = np.stack([
        [np.asarray(Image.fromarray(c.float().numpy()).resize(size[::-1], Image.Resampling.BILINEAR)) for c in image]
        for image in sensor
    ])  # fmt: skip
    np.testing.assert_allclose(Resize(size=size)(sensor.float()), expected, atol=1e-3)


@pytest.mark.parametrize("matrix", ["bt601", "bt709"])
@pytest.mark.parametrize("limited", [True, False])
def test_nv12_equals_its_twin(sensor, matrix, limited):
    kr, kb = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}[matrix]
    expected = np.stack([pixel_twins.nv12(image.double().numpy(), kr, kb, limited=limited) for image in sensor])
    found = NV12(matrix=matrix, range="limited" if limited else "full")(sensor.float()).numpy()
    difference = np.abs(found - expected)
    # float32 may round the other way where a value lies on a half.
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.005


def test_nv12_keeps_grey_and_removes_fine_colour():
    grey = torch.arange(256).float().repeat_interleave(2).view(1, 1, 16, 32).expand(1, 3, 16, 32)
    assert (NV12(range="full")(grey) - grey).abs().max() == 0
    assert (NV12()(grey) - grey).abs().max() <= 1
    stripes = torch.zeros(1, 3, 4, 4)
    stripes[:, 0, :, ::2] = 255  # red and black columns
    smeared = NV12()(stripes)
    assert smeared[0, 1, :, ::2].max() > 0 or smeared[0, 2, :, 1::2].max() > 0
    assert float(smeared[0, 0, :, ::2].mean()) < 250


def test_nv12_bilinear_upsampling_keeps_flat_colour():
    flat = torch.tensor([200.0, 90.0, 30.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    assert (NV12(upsampling="bilinear")(flat) - flat).abs().max() <= 2


def test_nv12_refuses_odd_sizes():
    with pytest.raises(InputError, match="even height and width"):
        NV12()(torch.zeros(1, 3, 5, 4))


@given(level=st.integers(0, 255), rows=st.integers(3, 12), columns=st.integers(3, 12))
@settings(max_examples=30, deadline=None)
def test_every_resizer_keeps_a_flat_image(level, rows, columns):
    flat = torch.full((1, 3, 10, 9), float(level))
    for step in (
        *(Resize(size=(rows, columns), kernel=k) for k in ("bilinear", "bicubic", "area", "nearest", "nearest_exact")),
        IntegerBilinear(size=(rows, columns)),
        PointSample(size=(rows, columns)),
    ):
        resized = step(flat)
        assert resized.shape == (1, 3, rows, columns)
        torch.testing.assert_close(resized, torch.full_like(resized, level), atol=1e-3, rtol=0)


def test_bicubic_stays_in_range():
    edge = torch.zeros(1, 3, 8, 8)
    edge[..., 4:] = 255
    resized = Resize(size=(8, 5), kernel="bicubic", antialias=False)(edge)
    assert float(resized.min()) >= 0
    assert float(resized.max()) <= 255


def test_point_sampling_takes_pixels_from_their_own_footprint():
    place = torch.arange(20 * 30).float().view(1, 1, 20, 30)
    sampled = PointSample(size=(8, 12))(place)[0, 0].long()
    rows, columns = sampled // 30, sampled % 30
    i, j = torch.arange(8)[:, None], torch.arange(12)
    assert ((rows >= (i * 2.5).long()) & (rows <= ((i + 1) * 2.5).long())).all()
    assert ((columns >= (j * 2.5).long()) & (columns <= ((j + 1) * 2.5).long())).all()
    assert torch.equal(sampled, PointSample(size=(8, 12))(place)[0, 0].long())
    assert not torch.equal(sampled, PointSample(size=(8, 12), seed=1)(place)[0, 0].long())


def test_simple_steps():
    image = torch.tensor([0.0, 63.75, 100.4, 255.0]).view(1, 1, 1, 4).expand(1, 3, 1, 4)
    assert torch.equal(RoundUint8()(image)[0, 0, 0], torch.tensor([0.0, 64.0, 100.0, 255.0]))
    torch.testing.assert_close(Gamma(gamma=2.0)(image)[0, 0, 0, 1], torch.tensor(255 / 16))
    assert torch.equal(Gain(gain=2.0, bias=-10)(image)[0, 0, 0], torch.tensor([0.0, 117.5, 190.8, 255.0]))
    assert torch.equal(Crop(left=0.5)(image), image[..., 2:])
    scaled = Scale(mean=(0.0, 0.5, 0.5), std=(1.0, 0.5, 0.25))(image)
    torch.testing.assert_close(scaled[0, :, 0, 3], torch.tensor([1.0, 1.0, 2.0]))


VEHICLE = Pipeline(steps=(NV12(), IntegerBilinear(size=(8, 12)), RoundUint8(), Scale()))


def test_pipeline_touches_its_leaf_only(sensor):
    batch = {"image": sensor, "label": torch.tensor([3, 4]), "nest": {"id": torch.tensor([0, 1])}}
    before = sensor.clone()
    done = VEHICLE(batch)
    assert done["label"] is batch["label"]
    assert done["nest"] is batch["nest"]
    assert torch.equal(batch["image"], before)
    assert done["image"].dtype == torch.float32
    torch.testing.assert_close(done["image"] * 255, (done["image"] * 255).round(), atol=1e-4, rtol=0)
    assert torch.equal(Pipeline(leaf="0", steps=VEHICLE.steps)((sensor, batch["label"]))[0], done["image"])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_no_step_changes_its_input(sensor, dtype):
    image = sensor.to(dtype)
    for step in (*VEHICLE.steps, Gamma(), Gain(), Crop(top=0.5), Resize(size=(8, 12), kernel="bicubic"), PointSample()):
        given_image = image.float()
        kept = given_image.clone()
        step(given_image)
        assert torch.equal(given_image, kept), step


def test_each_sample_is_preprocessed_for_itself(sensor):
    alone = VEHICLE({"image": sensor[1:]})["image"]
    assert torch.equal(VEHICLE({"image": sensor})["image"][1:], alone)


def test_pipeline_says_its_steps_and_swaps_them(sensor):
    assert VEHICLE.describe().startswith("colour: NV12(matrix='bt601', range='limited'")
    assert Pipeline().describe() == "unchanged"
    swapped = VEHICLE.swap("resize", Resize(size=(8, 12))).swap("colour", None)
    assert [step.name for step in swapped.steps] == ["resize", "round", "scale"]
    assert swapped.step("resize") == Resize(size=(8, 12))
    assert VEHICLE.step("gamma") is None
    assert swapped == Pipeline(steps=(Resize(size=(8, 12)), RoundUint8(), Scale()))


def test_pipeline_refuses_what_it_cannot_mean(sensor):
    with pytest.raises(InputError, match="two steps are named"):
        Pipeline(steps=(Resize(), IntegerBilinear()))
    with pytest.raises(InputError, match="one of \\['colour', 'resize', 'round', 'scale'\\]"):
        VEHICLE.swap("gamma", None)
    with pytest.raises(InputError, match="collate the samples first"):
        VEHICLE({"image": sensor[0]})
