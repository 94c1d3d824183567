from __future__ import annotations

import attack_twins
import pytest
import torch
from torch import nn

from holdfast.attacks.fgsm_rs import FGSMRS
from holdfast.attacks.seal import Ball, perturb
from holdfast.core.errors import InputError
from holdfast.core.space import Leaf


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_is_one_long_step_from_a_random_start(norm):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(27, 8), nn.Tanh(), nn.Linear(8, 3))
    x, y = torch.rand(4, 3, 3, 3), torch.tensor([0, 1, 2, 1])
    loss = lambda z: nn.functional.cross_entropy(net(z), y, reduction="none")  # noqa: E731 - as a user writes it
    adv = perturb(FGSMRS(eps=8, norm=norm), loss, x, Leaf(), torch.Generator().manual_seed(0))
    start = Ball.around(x, eps=8, norm=norm, leaf=Leaf()).start(torch.Generator().manual_seed(0))
    expected = attack_twins.pgd(loss, x, start, 8 / 255, 10 / 255, 1, norm)
    torch.testing.assert_close(adv, expected, atol=3e-6, rtol=1e-5)


def test_refusal():
    with pytest.raises(InputError, match="not positive"):
        FGSMRS(step=0)
