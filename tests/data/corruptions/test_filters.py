from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from holdfast.data.corruptions.filters import gaussian

SCIPY = {"edge": "nearest", "symmetric": "reflect", "mirror": "mirror"}


@pytest.mark.parametrize("border", SCIPY)
@pytest.mark.parametrize("shape", [(9, 11), (70, 300)])
@pytest.mark.parametrize("sigma", [0.4, 1.0, 3.0])
def test_a_blur_by_taps_or_by_a_matrix_is_that_of_scipy(border: str, shape: tuple[int, int], sigma: float) -> None:
    image = np.random.default_rng(0).uniform(0, 255, (2, *shape))
    expected = np.stack([ndimage.gaussian_filter(plane, sigma, mode=SCIPY[border]) for plane in image])
    found = gaussian(torch.from_numpy(image).float(), sigma, border=border)
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-3)


@pytest.mark.parametrize("shape", [(1, 8, 9), (3, 32, 32), (45, 52)])
def test_a_sample_has_the_same_bits_in_any_batch(shape: tuple[int, ...]) -> None:
    images = torch.rand(67, *shape, generator=torch.Generator().manual_seed(0)) * 255
    alone = torch.cat([gaussian(image[None], 2.0) for image in images])
    assert torch.equal(gaussian(images, 2.0), alone)
