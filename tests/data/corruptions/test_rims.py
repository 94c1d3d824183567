from __future__ import annotations

import corruption_twins
import numpy as np
import torch
from scipy import ndimage

from holdfast.data.corruptions.rims import distance_to, edges, equalised, rim_light


def drops(seed: int, sigma: float = 2.0) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(0.65, 0.3, (45, 52)), sigma)
    return np.floor(np.where(noise < 0.66, 0, noise) * 255).clip(0, 255)


def as_batch(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image)[None]


def test_edges_are_those_of_canny() -> None:
    texture = ndimage.gaussian_filter(np.random.default_rng(9).uniform(0, 255, (45, 52)), 1.2)
    weak = np.floor((texture - texture.min()) / np.ptp(texture) * 120)  # gradients on both sides of both thresholds
    for image in (drops(0), drops(1, 1.0), weak):
        expected = corruption_twins.canny(image)
        assert 20 < expected.sum() < expected.size / 2
        np.testing.assert_array_equal(edges(as_batch(image))[0].numpy(), expected)


def test_distances_are_shortest_ways_on_the_grid() -> None:
    places = np.zeros((45, 52), bool)
    places[3, 4] = places[30, 40] = places[44, 0] = True
    found = distance_to(as_batch(places))[0].numpy().clip(max=20)
    np.testing.assert_allclose(found, corruption_twins.distance_to(places), atol=1e-4)


def test_no_place_is_far_from_everywhere() -> None:
    assert (distance_to(torch.zeros(1, 6, 7, dtype=torch.bool)) >= 20).all()


def test_equalised_levels_and_a_flat_image() -> None:
    for image in (drops(2), np.full((45, 52), 7.0)):
        np.testing.assert_array_equal(equalised(as_batch(image))[0].numpy(), corruption_twins.equalised(image))


def test_light_is_that_of_the_definition() -> None:
    found, expected = rim_light(as_batch(drops(3)))[0].numpy(), corruption_twins.rim_light(drops(3))
    assert np.abs(found - expected).mean() < 0.05
