"""The operations against Pillow's, which work on whole grey levels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from holdfast.methods import image_ops
from holdfast.methods.image_ops import ENHANCING, GEOMETRIC, PHOTOMETRIC, apply_each


def picture(height=24, width=32, seed=0):
    g = np.random.default_rng(seed)
    low = g.uniform(30, 90, size=(3, 1, 1))
    smooth = low + 90 * np.sin(np.linspace(0, 3, width))[None, None] * np.cos(np.linspace(0, 2, height))[None, :, None]
    return np.clip(smooth + g.normal(0, 6, size=(3, height, width)), 0, 255).astype(np.uint8)


def tensor(array):
    return torch.from_numpy(array.astype(np.float32) / 255)[None]


def pillow(array):
    return Image.fromarray(array.transpose(1, 2, 0))


def from_pillow(image):
    return tensor(np.asarray(image).transpose(2, 0, 1).copy())


def strength(value):
    return torch.tensor([value])


@pytest.mark.parametrize(
    ("op", "value", "theirs"),
    [
        (image_ops.autocontrast, 0.5, ImageOps.autocontrast),
        (image_ops.equalize, 0.5, ImageOps.equalize),
        (image_ops.posterize, 0.3, lambda i: ImageOps.posterize(i, 3)),
        (image_ops.posterize, 0.1, lambda i: ImageOps.posterize(i, 4)),
        (image_ops.solarize, 0.6, lambda i: ImageOps.solarize(i, math.ceil(0.4 * 255))),
        (image_ops.brightness, 0.5, lambda i: ImageEnhance.Brightness(i).enhance(1.45)),
        (image_ops.brightness, -0.5, lambda i: ImageEnhance.Brightness(i).enhance(0.55)),
        (image_ops.contrast, 0.5, lambda i: ImageEnhance.Contrast(i).enhance(1.45)),
        (image_ops.colour, -0.5, lambda i: ImageEnhance.Color(i).enhance(0.55)),
        (image_ops.sharpness, 0.5, lambda i: ImageEnhance.Sharpness(i).enhance(1.45)),
        (image_ops.sharpness, -1.0, lambda i: ImageEnhance.Sharpness(i).enhance(0.1)),
    ],
)
def test_photometric_operations_equal_pillows(op, value, theirs):
    array = picture()
    expected = from_pillow(theirs(pillow(array)))
    assert (op(tensor(array), strength(value)) - expected).abs().max() <= 1.6 / 255


@pytest.mark.parametrize(
    ("op", "value", "matrix"),
    [
        (image_ops.translate_x, 0.25, (1, 0, 32 * 0.25 / 3, 0, 1, 0)),
        (image_ops.translate_y, -0.5, (1, 0, 0, 0, 1, -24 * 0.5 / 3)),
        (image_ops.shear_x, 0.5, (1, 0.15, -0.15 * 12, 0, 1, 0)),
        (image_ops.shear_y, -0.5, (1, 0, 0, -0.15, 1, 0.15 * 16)),
    ],
)
def test_moving_operations_equal_pillows_inside(op, value, matrix):
    array = picture()
    theirs = from_pillow(pillow(array).transform((32, 24), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR))
    found = op(tensor(array), strength(value))
    inside = (theirs > 0).all(1) & (found > 0).all(1)
    inside[:, :4], inside[:, -4:], inside[..., :5], inside[..., -5:] = False, False, False, False
    assert inside.sum() > 150
    assert (found - theirs).abs()[inside[:, None].expand_as(found)].max() <= 2.1 / 255


def test_rotation_equals_pillows_inside():
    array = picture()
    theirs = from_pillow(pillow(array).rotate(15, Image.Resampling.BILINEAR))
    found = image_ops.rotate(tensor(array), strength(0.5))
    assert (found - theirs).abs()[..., 8:-8, 10:-10].max() <= 2.1 / 255


def test_strength_zero_changes_nothing_where_there_is_a_strength():
    image = tensor(picture())
    for op in (*ENHANCING.values(), *GEOMETRIC.values(), image_ops.solarize):
        torch.testing.assert_close(op(image, strength(0.0)), image, atol=1e-5, rtol=0)


def test_one_value_stays_and_results_stay_in_range():
    flat = torch.full((1, 3, 5, 5), 0.4)
    assert torch.equal(image_ops.autocontrast(flat, strength(0.0)), flat)
    torch.testing.assert_close(image_ops.equalize(flat, strength(0.0)), flat)
    for op in {**PHOTOMETRIC, **ENHANCING, **GEOMETRIC}.values():
        for value in (-1.0, 1.0):
            found = op(tensor(picture(seed=3)), strength(value))
            assert found.min() >= 0
            assert found.max() <= 1 + 1e-6


def test_each_sample_gets_its_own_operation_and_strength():
    image = torch.rand(4, 3, 8, 8)
    values = torch.tensor([0.5, -0.5, 0.9, 0.2])
    found = apply_each(image, ENHANCING, torch.tensor([0, 1, -1, 0]), values)
    torch.testing.assert_close(found[0], image_ops.brightness(image[:1], values[:1])[0])
    torch.testing.assert_close(found[1], image_ops.contrast(image[1:2], values[1:2])[0])
    assert torch.equal(found[2], image[2])
    torch.testing.assert_close(found[3], image_ops.brightness(image[3:], values[3:])[0])
