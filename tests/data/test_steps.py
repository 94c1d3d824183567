"""The steps that a vehicle's pipeline may have: colour, codec, camera, geometry, number formats, real resizers."""

from __future__ import annotations

import io
import itertools
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from corruption_twins import photo
from PIL import Image
from scipy import ndimage

from holdfast.core.errors import InputError
from holdfast.data.camera import Demosaic, Exposure, Noise, SCurve, Vignetting, WhiteBalance
from holdfast.data.codec import JPEG
from holdfast.data.colour import NV12, SwapChannels, YCbCr, grey, raised
from holdfast.data.geometry import LensError, Roll, Shift, Yaw
from holdfast.data.numeric import NarrowInput
from holdfast.data.real_resize import OpenCVResize, PillowResize, installed_resizers

PHOTO = torch.stack([torch.from_numpy(photo(i, 40, 52)) for i in range(2)]).permute(0, 3, 1, 2).float()
RAMP = torch.arange(60.0).expand(1, 1, 41, 60)
IDENTITIES = [
    Exposure(stops=0.0), WhiteBalance(red=1.0, blue=1.0), SCurve(share=0.0), Vignetting(corner=0.0), Noise(sigma=0.0),
    Shift(right_px=0.0), Roll(degrees=0.0), Yaw(degrees=0.0), LensError(k1=0.0),
]  # fmt: skip


@pytest.mark.parametrize("step", IDENTITIES, ids=lambda step: type(step).__name__)
def test_a_step_of_no_strength_changes_nothing(step) -> None:
    torch.testing.assert_close(step(PHOTO), PHOTO, atol=2e-3, rtol=0)


@pytest.mark.parametrize("matrix", ["bt601", "bt709"])
@pytest.mark.parametrize("span", ["limited", "full"])
def test_an_agreed_round_trip_with_box_chroma_is_that_of_nv12(matrix: str, span: str) -> None:
    coding = f"{matrix} {span}"
    for up, upsampling in (("nearest", "nearest"), ("centred", "bilinear")):
        found = YCbCr(encoded=coding, decoded=coding, down="box", up=up)(PHOTO)
        expected = NV12(matrix=matrix, range=span, upsampling=upsampling)(PHOTO)
        assert (found - expected).abs().mean() < 0.2  # chroma between its bytes is rounded once more here
        assert (found - expected).abs().max() <= 2


def test_full_resolution_chroma_loses_a_rounding_and_a_wrong_matrix_loses_more() -> None:
    agreed = (YCbCr(encoded="bt601 full", decoded="bt601 full")(PHOTO) - PHOTO).abs()
    mixed = (YCbCr(encoded="bt601 limited", decoded="bt601 full")(PHOTO) - PHOTO).abs()
    assert agreed.max() <= 2
    assert mixed.mean() > 3
    flat = torch.full((1, 3, 4, 4), 128.0)
    expected = 16 + 128 * 219 / 255
    torch.testing.assert_close(
        YCbCr(encoded="bt601 limited", decoded="bt601 full")(flat),
        torch.full_like(flat, round(expected)),
        atol=1,
        rtol=0,
    )


def test_odd_sizes_and_other_channels_pass() -> None:
    for step in (YCbCr(down="left", up="left"), YCbCr(down="drop"), Demosaic(), WhiteBalance(), SwapChannels()):
        assert step(PHOTO[..., :39, :51]).shape == (2, 3, 39, 51)
        assert step(PHOTO[:, :1]).shape == (2, 1, 40, 52)


def test_jpeg_is_pillows() -> None:
    for image, (chroma, subsampling) in itertools.product(
        (PHOTO[..., :39, :51], PHOTO[:, :1]), (("444", 0), ("422", 1), ("420", 2))
    ):
        found = JPEG(quality=60, chroma=chroma)(image)
        for before, after in zip(image, found, strict=True):
            file = io.BytesIO()
            pixels = before.to(torch.uint8).permute(1, 2, 0).squeeze(-1).numpy()
            Image.fromarray(pixels).save(file, "JPEG", quality=60, subsampling=subsampling)
            np.testing.assert_array_equal(after.permute(1, 2, 0).squeeze(-1), np.asarray(Image.open(file)))


def test_light_is_added_in_linear_light() -> None:
    code = torch.tensor([128.0]).view(1, 1, 1, 1)
    light = ((code / 255 + 0.055) / 1.055) ** 2.4
    found = Exposure(stops=1.0)(code)
    torch.testing.assert_close(((found / 255 + 0.055) / 1.055) ** 2.4, 2 * light, rtol=1e-4, atol=0)


def test_vignetting_darkens_the_corner_by_its_share_and_the_middle_by_nothing() -> None:
    found = Vignetting(corner=0.1)(torch.full((1, 1, 5, 7), 100.0))
    assert float(found[0, 0, 0, 0]) == pytest.approx(90, abs=1e-3)
    assert float(found[0, 0, 2, 3]) == pytest.approx(100, abs=1e-3)


def test_demosaicing_keeps_flat_colours_and_what_each_filter_saw() -> None:
    flat = torch.tensor([30.0, 90.0, 200.0]).view(1, 3, 1, 1).expand(1, 3, 8, 10)
    torch.testing.assert_close(Demosaic()(flat), flat)
    found = Demosaic()(PHOTO)
    assert torch.equal(found[:, 0, ::2, ::2], PHOTO[:, 0, ::2, ::2])
    assert torch.equal(found[:, 2, 1::2, 1::2], PHOTO[:, 2, 1::2, 1::2])
    between = (PHOTO[:, 0, 2:-2:2, 2:-2:2] + PHOTO[:, 0, 2:-2:2, 4::2]) / 2
    torch.testing.assert_close(found[:, 0, 2:-2:2, 3:-2:2], between[..., : found[:, 0, 2:-2:2, 3:-2:2].shape[-1]])


def test_a_pattern_of_noise_is_the_same_for_every_image() -> None:
    noise = Noise(sigma=2.0)(torch.full((2, 3, 40, 52), 128.0)) - 128
    assert torch.equal(noise[0], noise[1])
    assert float(noise.std()) == pytest.approx(2.0, rel=0.1)


def test_the_scene_moves_right_for_a_shift_and_left_for_a_yaw_to_the_right() -> None:
    assert float(Shift(right_px=2.0)(RAMP)[0, 0, 20, 30]) == pytest.approx(28, abs=1e-3)
    focal_px = 30 / np.tan(np.radians(30))
    assert float(Yaw(degrees=1.0)(RAMP)[0, 0, 20, 30]) == pytest.approx(30 + focal_px * np.tan(np.radians(1)), abs=0.05)


def test_a_roll_is_the_rotation_of_scipy() -> None:
    image = ndimage.gaussian_filter(np.random.default_rng(0).uniform(0, 255, (41, 61)), 3)
    found = Roll(degrees=3.0)(torch.from_numpy(image)[None, None].float())[0, 0].numpy()
    expected = ndimage.rotate(image, -3.0, reshape=False, order=1, mode="nearest")  # SciPy turns anticlockwise
    np.testing.assert_allclose(found, expected, atol=0.05)


def test_a_lens_error_leaves_the_middle_and_moves_the_corner_by_k1() -> None:
    found = LensError(k1=-0.1)(RAMP)[0, 0]
    assert float(found[20, 29]) == pytest.approx(29, abs=0.01)
    assert float(found[0, 0]) == pytest.approx(29.5 - 0.9 * 29.5, abs=1e-3)


def test_narrow_formats_lose_what_they_must() -> None:
    lost = {name: float((NarrowInput(format=name)(PHOTO) - PHOTO).abs().mean()) for name in ("fp16", "bf16", "int8")}
    assert 0 < lost["fp16"] < lost["bf16"] < lost["int8"] < 1
    one = NarrowInput(format="int8")(torch.full((1, 1, 4, 4), 255.0))
    torch.testing.assert_close(one, torch.full((1, 1, 4, 4), 255.0))


def test_grey_is_luma_and_raising_by_nothing_changes_nothing() -> None:
    assert float(grey(torch.tensor([10.0, 20.0, 30.0]).view(1, 3, 1, 1))) == pytest.approx(2.99 + 11.74 + 3.42)
    torch.testing.assert_close(raised(PHOTO, 0.0), PHOTO)


@pytest.mark.parametrize("kernel", ["nearest", "box", "bilinear", "bicubic", "lanczos"])
def test_pillows_resize_is_pillows(kernel: str) -> None:
    pixels = PHOTO[0].permute(1, 2, 0).to(torch.uint8).numpy()
    expected = np.asarray(Image.fromarray(pixels).resize((21, 16), Image.Resampling[kernel.upper()]))
    found = PillowResize(size=(16, 21), kernel=kernel)(PHOTO[:1])[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(found, expected)


def test_every_resizer_that_is_installed_gives_the_size() -> None:
    resizers = installed_resizers((16, 21))
    assert all(resizer(PHOTO).shape == (2, 3, 16, 21) for resizer in resizers.values())
    assert ("OpenCV linear" in resizers) == (find_spec("cv2") is not None)


def test_opencv_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.data.real_resize.find_spec", lambda name: None)
    with pytest.raises(InputError, match="OpenCV is not installed"):
        OpenCVResize(size=(16, 21))(PHOTO)


def test_opencvs_linear_resize_is_bilinear_without_antialiasing() -> None:
    pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'holdfast[mismatch]'")
    found = OpenCVResize(size=(16, 21))(PHOTO)
    expected = torch.nn.functional.interpolate(PHOTO, (16, 21), mode="bilinear", align_corners=False)
    assert (found - expected).abs().max() <= 1
