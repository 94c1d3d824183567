from __future__ import annotations

import attack_twins
import pytest
import torch
from torch import nn

from holdfast.attacks.fgsm import FGSM
from holdfast.attacks.seal import perturb
from holdfast.core.space import Leaf


def problem(seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(27, 8), nn.Tanh(), nn.Linear(8, 3))
    y = torch.tensor([0, 1, 2, 1])
    return torch.rand(4, 3, 3, 3), lambda z: nn.functional.cross_entropy(net(z), y, reduction="none")


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("eps", [0.5, 8.0, 60.0])
def test_equals_the_twin(norm, eps):
    x, loss = problem()
    adv = perturb(FGSM(eps=eps, norm=norm), loss, x, Leaf(), torch.Generator())
    expected = attack_twins.fgsm(loss, x, eps / 255, norm)
    torch.testing.assert_close(adv, expected, atol=2e-6, rtol=1e-5)


def test_budget_is_counted_before_normalisation():
    x, loss = problem()
    mean, std = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1), torch.tensor([0.2, 0.25, 0.3]).view(3, 1, 1)
    leaf = Leaf(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    normalised = perturb(FGSM(eps=4), lambda z: loss(z * std + mean), (x - mean) / std, leaf, torch.Generator())
    plain = perturb(FGSM(eps=4), loss, x, Leaf(), torch.Generator())
    torch.testing.assert_close(normalised * std + mean, plain, atol=1e-6, rtol=0)


def test_a_scalar_loss_gives_the_same_sign_step():
    x, loss = problem()
    by_sample = perturb(FGSM(eps=4), loss, x, Leaf(), torch.Generator())
    mean = perturb(FGSM(eps=4), lambda z: loss(z).mean(), x, Leaf(), torch.Generator())
    assert torch.equal(by_sample, mean)


def test_one_sample_does_not_depend_on_its_neighbours():
    x, loss = problem()
    order = torch.tensor([2, 0, 3, 1])
    adv = perturb(FGSM(eps=4), loss, x, Leaf(), torch.Generator())
    back = perturb(FGSM(eps=4), lambda z: loss(z[order.argsort()]), x[order], Leaf(), torch.Generator())
    torch.testing.assert_close(back, adv[order])
