from __future__ import annotations

from dataclasses import replace

import ensemble_twins
import pytest
import torch
from small_classifier import aim_of, classifier, samples

from holdfast.attacks.classes import runners_up
from holdfast.attacks.fab import FAB
from holdfast.attacks.samples import per_sample_length
from holdfast.attacks.seal import perturb
from holdfast.core.errors import InputError
from holdfast.core.space import Leaf

WIDE = {"linf": 60.0, "l2": 400.0}


def draws():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_on_a_linear_classifier_it_finds_the_distance_to_the_nearest_boundary(norm):
    net = classifier(linear=True)
    x, y = samples(net)
    adv = perturb(FAB(eps=WIDE[norm], norm=norm, steps=20, targets=4), aim_of(net, y, leave=False), x, Leaf(), draws())
    weight, logits = net[1].weight, net(x)
    gaps, slopes = logits.gather(1, y[:, None]) - logits, weight[y][:, None] - weight[None]
    lengths = slopes.abs().sum(2) if norm == "linf" else slopes.norm(dim=2)
    nearest = (gaps / lengths.clamp(min=1e-12)).scatter(1, y[:, None], torch.inf).amin(1)
    assert (nearest * 255 < WIDE[norm]).all()
    found = per_sample_length(adv - x, norm)
    assert (net(adv).argmax(1) != y).all()
    assert (found >= nearest * (1 - 1e-9)).all()
    # It stops a little behind the boundary, by the overshoot of 5 per cent after each step back of 10.
    assert (found <= nearest * 1.06).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_equals_the_twin(norm):
    net = classifier(4)
    x, y = samples(net, n=5)
    aim = aim_of(net, y, leave=False)
    adv = perturb(FAB(eps=WIDE[norm], norm=norm, steps=8, targets=2), aim, x, Leaf(), draws())
    targets = runners_up(aim, net(x), 2)
    for i in range(len(x)):
        found = []
        for target in targets[i]:
            difference = lambda z, t=target, i=i: net(z[None])[0, t] - net(z[None])[0, y[i]]  # noqa: E731 - one for each
            wrong = lambda z, i=i: int(net(z[None]).argmax()) != int(y[i])  # noqa: E731 - as above
            found.append(ensemble_twins.fab(difference, wrong, x[i], 8, norm))
        best = min(found, key=lambda pair: pair[1])
        assert best[1] * 255 < WIDE[norm]
        torch.testing.assert_close(adv[i], best[0], atol=1e-7, rtol=0)


def test_a_point_outside_the_budget_does_not_count():
    net = classifier(linear=True)
    x, y = samples(net)
    nearest = perturb(FAB(eps=60, steps=20, targets=4), aim_of(net, y, leave=False), x, Leaf(), draws())
    strength = per_sample_length(nearest - x, "linf") * 255
    eps = float(strength.median()) * 1.02
    adv = perturb(FAB(eps=eps, steps=20, targets=4), aim_of(net, y), x, Leaf(), draws())
    broken = net(adv).argmax(1) != y
    assert torch.equal(broken, strength <= eps)
    assert broken.any()
    assert not broken.all()


def test_refusals():
    net = classifier()
    x, _ = samples(net)
    with pytest.raises(InputError, match="at least 1"):
        FAB(steps=0)
    with pytest.raises(InputError, match="FAB: is for classification"):
        perturb(FAB(), lambda z: z.sum((1, 2, 3)), x, Leaf(), draws())
    with pytest.raises(InputError, match="declares no `labels`"):
        perturb(FAB(), replace(aim_of(net, torch.zeros(8).long()), labels=None), x, Leaf(), draws())
