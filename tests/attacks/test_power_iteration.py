from __future__ import annotations

import pytest
import torch

from holdfast.attacks.power_iteration import PowerIteration
from holdfast.attacks.seal import perturb
from holdfast.core.errors import InputError
from holdfast.core.space import Leaf


def test_finds_the_direction_of_largest_curvature():
    g = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(6, 6, generator=g, dtype=torch.float64))
    curvature = basis @ torch.diag(torch.tensor([100.0, 1, 1, 1, 1, 1], dtype=torch.float64)) @ basis.T
    x = torch.full((3, 6), 0.5, dtype=torch.float64)
    loss = lambda z: 0.5 * ((z - x) @ curvature * (z - x)).sum(dim=1)  # noqa: E731 - smallest at x
    adv = perturb(PowerIteration(eps=2.0, iterations=3), loss, x, Leaf(), g)
    delta = (adv - x) * 255
    assert torch.allclose(delta.norm(dim=1), torch.full((3,), 2.0, dtype=torch.float64), rtol=1e-4)
    assert ((delta @ basis[:, 0]).abs() > 1.99).all()


def test_one_iteration_is_the_normalised_product_with_the_curvature():
    g = torch.Generator().manual_seed(1)
    root = torch.randn(5, 5, generator=g, dtype=torch.float64)
    curvature = root @ root.T
    x = torch.full((2, 5), 0.5, dtype=torch.float64)
    loss = lambda z: 0.5 * ((z - x) @ curvature * (z - x)).sum(dim=1)  # noqa: E731 - smallest at x
    adv = perturb(PowerIteration(eps=3.0), loss, x, Leaf(), torch.Generator().manual_seed(7))
    start = torch.randn(2, 5, generator=torch.Generator().manual_seed(7)).double()
    expected = start @ curvature
    expected = 3.0 / 255 * expected / expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(adv - x, expected, rtol=1e-4, atol=1e-8)


def test_refusals():
    for odd in ({"iterations": 0}, {"xi": 0.0}):
        with pytest.raises(InputError, match="at least 1"):
            PowerIteration(**odd)
