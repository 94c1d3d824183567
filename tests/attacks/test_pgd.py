from __future__ import annotations

import attack_twins
import pytest
import torch
from small_classifier import aim_of, classifier, samples
from torch import nn

from holdfast.attacks.pgd import PGD
from holdfast.attacks.seal import Ball, perturb
from holdfast.core.errors import InputError
from holdfast.core.space import Leaf


def problem(seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(27, 8), nn.Tanh(), nn.Linear(8, 3))
    y = torch.tensor([0, 1, 2, 1])
    return torch.rand(4, 3, 3, 3), lambda z: nn.functional.cross_entropy(net(z), y, reduction="none")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("random_start", [True, False])
def test_equals_the_twin_over_several_steps(norm, random_start):
    x, loss = problem()
    eps, alpha = (8.0, 3.0) if norm == "linf" else (60.0, 20.0)
    adv = perturb(
        PGD(eps=eps, alpha=alpha, steps=4, norm=norm, random_start=random_start), loss, x, Leaf(), generator()
    )
    start = Ball.around(x, eps=eps, norm=norm, leaf=Leaf()).start(generator()) if random_start else x
    expected = attack_twins.pgd(loss, x, start, eps / 255, alpha / 255, 4, norm)
    torch.testing.assert_close(adv, expected, atol=5e-6, rtol=1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("random_start", [True, False])
def test_a_plain_loss_ends_where_an_aim_does_that_lets_nobody_go(norm, random_start):
    net = classifier(2)
    x, y = samples(net)
    attack = PGD(eps=6.0 if norm == "linf" else 20.0, norm=norm, steps=5, random_start=random_start)
    plain = perturb(attack, lambda z: nn.functional.cross_entropy(net(z), y, reduction="none"), x, Leaf(), generator())
    assert torch.equal(perturb(attack, aim_of(net, y, leave=False), x, Leaf(), generator()), plain)


def test_default_step_is_two_and_a_half_budgets_over_the_steps():
    x, loss = problem()
    by_default = perturb(PGD(eps=8, steps=5), loss, x, Leaf(), generator())
    written_out = perturb(PGD(eps=8, alpha=4.0, steps=5), loss, x, Leaf(), generator())
    torch.testing.assert_close(by_default, written_out)


def test_restarts_keep_the_strongest_run_of_each_sample():
    x, loss = problem()
    attack = PGD(eps=8, steps=1, alpha=0.5, restarts=6)
    adv = perturb(attack, loss, x, Leaf(), generator())
    draws = generator()
    singles = [loss(perturb(PGD(eps=8, steps=1, alpha=0.5), loss, x, Leaf(), draws)) for _ in range(6)]
    torch.testing.assert_close(loss(adv), torch.stack(singles).amax(dim=0))
    assert len({int(run) for run in torch.stack(singles).argmax(dim=0)}) > 1


def test_starts_fill_the_ball():
    x = torch.full((400, 3, 4, 4), 0.5)
    linf = (Ball.around(x, eps=2.0, norm="linf", leaf=Leaf()).start(generator()) - x) * 255 / 2
    assert abs(float(linf.mean())) < 0.02
    assert abs(float(linf.std()) - 3**-0.5) < 0.01
    l2 = ((Ball.around(x, eps=2.0, norm="l2", leaf=Leaf()).start(generator()) - x) * 255 / 2).flatten(1).norm(dim=1)
    assert abs(float(l2.mean()) - 0.5) < 0.05
    assert float(l2.max()) <= 1 + 1e-5


def test_more_steps_raise_the_loss():
    x, loss = problem()
    found = [perturb(PGD(eps=20, steps=k), loss, x, Leaf(), generator()) for k in (1, 3, 10)]
    values = [loss(z).mean().item() for z in found]
    assert values == sorted(values)


def test_counts_its_passes():
    x, loss = problem()
    calls = []
    attack = PGD(steps=4, restarts=3)
    perturb(attack, lambda z: calls.append(z.requires_grad) or loss(z), x, Leaf(), generator())
    forwards, backwards = attack.passes()
    assert (len(calls), sum(calls) * 0.5) == (forwards, backwards)


def test_refusals():
    with pytest.raises(InputError, match="at least 1"):
        PGD(steps=0)
    with pytest.raises(InputError, match="random start"):
        PGD(restarts=2, random_start=False)
    x, loss = problem()
    with pytest.raises(InputError, match="one loss per sample"):
        perturb(PGD(restarts=2), lambda z: loss(z).mean(), x, Leaf(), generator())
