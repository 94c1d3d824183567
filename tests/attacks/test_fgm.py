from __future__ import annotations

import pytest
import torch

from holdfast.attacks.fgm import FGM
from holdfast.attacks.seal import perturb
from holdfast.core.space import Leaf

UNBOUNDED = Leaf(low=-float("inf"), high=float("inf"), unit=1.0)


@pytest.mark.parametrize("scope", ["sample", "batch"])
def test_the_closed_form(scope):
    weight = torch.tensor([[3.0, 4.0], [0.6, 0.8]])
    loss = lambda z: (z * weight).sum(1)  # noqa: E731 - used once
    adv = perturb(FGM(eps=2, scope=scope), loss, torch.zeros(2, 2), UNBOUNDED, torch.Generator())
    norm = weight.norm(dim=1, keepdim=True) if scope == "sample" else weight.norm()
    torch.testing.assert_close(adv, 2 * weight / norm, rtol=2e-5, atol=0)


def test_a_zero_gradient_moves_nothing():
    weight = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    adv = perturb(FGM(), lambda z: (z * weight).sum(1), torch.zeros(2, 2), UNBOUNDED, torch.Generator())
    torch.testing.assert_close(adv, weight, rtol=2e-5, atol=0)
