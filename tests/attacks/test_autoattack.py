from __future__ import annotations

import pytest
import torch
from small_classifier import aim_of, classifier, samples

from holdfast.attacks.autoattack import AutoAttack
from holdfast.attacks.seal import perturb
from holdfast.core.discover import build
from holdfast.core.errors import InputError
from holdfast.core.space import Leaf


def draws():
    return torch.Generator().manual_seed(0)


def test_the_standard_is_the_published_one():
    members = AutoAttack().members()
    assert [type(member).__name__ for member in members] == ["APGD", "APGDT", "FAB", "Square"]
    ce, targeted, fab, square = members
    assert (ce.loss, ce.steps, ce.restarts) == ("ce", 100, 1)
    assert (targeted.steps, targeted.targets, fab.steps, fab.targets) == (100, 9, 100, 9)
    assert (square.queries, square.share) == (5000, 0.8)
    assert [(member.norm, member.eps) for member in AutoAttack(norm="l2", eps=3.0).members()] == [("l2", 3.0)] * 4


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_breaks_what_any_member_breaks(norm):
    net = classifier(8)
    x, y = samples(net, n=16)
    eps = 5.0 if norm == "linf" else 20.0
    ensemble = AutoAttack(eps=eps, norm=norm, steps=10, queries=50, targets=2)
    broken = net(perturb(ensemble, aim_of(net, y), x, Leaf(), draws())).argmax(1) != y
    assert 0 < broken.sum() < 16
    for name in ("apgd", "apgd_t", "fab"):
        options = {"loss": "ce"} if name == "apgd" else {"targets": 2}
        member = build("attack", {name: {"eps": eps, "norm": norm, "steps": 10, **options}})
        alone = net(perturb(member, aim_of(net, y), x, Leaf(), draws())).argmax(1) != y
        assert (broken | ~alone).all()


def test_without_departures_the_strongest_point_is_kept():
    net = classifier(9)
    x, y = samples(net)
    aim = aim_of(net, y, leave=False)
    adv = perturb(AutoAttack(eps=3, steps=5, queries=20, targets=2), aim, x, Leaf(), draws())
    assert (aim(adv) > aim(x)).all()


def test_refusals():
    with pytest.raises(InputError, match="AutoAttack: is for classification"):
        perturb(AutoAttack(), lambda z: z.sum((1, 2, 3)), torch.rand(2, 1, 4, 4), Leaf(), draws())
