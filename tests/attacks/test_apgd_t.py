from __future__ import annotations

from dataclasses import replace

import ensemble_twins
import pytest
import torch
from small_classifier import aim_of, classifier, samples

from holdfast.attacks.apgd_t import APGDT
from holdfast.attacks.classes import logit_margin, runners_up, targeted_dlr
from holdfast.attacks.seal import Ball, perturb
from holdfast.core.errors import InputError
from holdfast.core.space import Leaf


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_is_the_strongest_of_the_twins_runs_towards_each_target(norm):
    net = classifier(2)
    x, y = samples(net)
    aim, eps, draws = aim_of(net, y, leave=False), 4.0 if norm == "linf" else 12.0, torch.Generator().manual_seed(0)
    adv = perturb(APGDT(eps=eps, norm=norm, steps=12, targets=3), aim, x, Leaf(), torch.Generator().manual_seed(0))
    targets = runners_up(aim, net(x), 3)
    starts = [Ball.around(x, eps=eps, norm=norm, leaf=Leaf()).edge(draws) for _ in range(3)]
    for i in range(len(x)):
        found = []
        for start, target in zip(starts, targets[i], strict=True):
            one = replace(aim.take(torch.tensor([i])), targets=target[None])
            value = lambda z, one=one: targeted_dlr(one, net(z[None]))[0]  # noqa: E731 - one for each target
            z = ensemble_twins.apgd(value, x[i], start[i], eps / 255, 12, norm)
            found.append((value(z).item(), z))
        torch.testing.assert_close(adv[i], max(found, key=lambda pair: pair[0])[1], atol=2e-5 * eps / 255, rtol=0)


def test_targets_are_the_most_likely_wrong_classes():
    logits = torch.tensor([[0.1, 5.0, 3.0, 4.0], [9.0, 1.0, 2.0, 3.0]])
    aim = aim_of(classifier(), torch.tensor([1, 2]))
    assert runners_up(aim, logits, 2).tolist() == [[3, 2], [0, 3]]


def test_targeted_ratio():
    logits = torch.tensor([[3.0, 1.0, 0.5, -2.0]])
    aim = replace(aim_of(classifier(), torch.tensor([0])), targets=torch.tensor([2]))
    torch.testing.assert_close(targeted_dlr(aim, logits), torch.tensor([(0.5 - 3.0) / (3.0 - 0.5 * (0.5 - 2.0))]))


def test_samples_leave_once_broken_and_clean_failures_are_left_alone():
    net = classifier(3)
    x, y = samples(net, n=12)
    y[0] = (y[0] + 1) % 5  # wrong from the start
    adv = perturb(APGDT(eps=40, steps=20), aim_of(net, y), x, Leaf(), torch.Generator().manual_seed(0))
    assert torch.equal(adv[0], x[0])
    wrong = logit_margin(aim_of(net, y), net(adv)) > 0
    assert wrong.sum() > 6


def test_refusals():
    net = classifier()
    x, y = samples(net)
    with pytest.raises(InputError, match="at least 1"):
        APGDT(targets=0)
    three = torch.nn.Sequential(net, torch.nn.Linear(5, 3).double())
    with pytest.raises(InputError, match="needs 4 classes, the model has 3"):
        perturb(APGDT(), aim_of(three, y % 3), x, Leaf(), torch.Generator())
