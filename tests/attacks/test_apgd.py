from __future__ import annotations

import ensemble_twins
import pytest
import torch
from small_classifier import aim_of, classifier, samples

from holdfast.attacks.apgd import APGD
from holdfast.attacks.auto_step import checkpoints
from holdfast.attacks.classes import dlr, logit_margin
from holdfast.attacks.seal import Ball, perturb
from holdfast.core.errors import InputError
from holdfast.core.space import Leaf


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", ["task", "ce", "dlr"])
@pytest.mark.parametrize("steps", [1, 9, 40])
def test_equals_the_twin(norm, loss, steps):
    net = classifier()
    x, y = samples(net)
    aim, eps = aim_of(net, y, leave=False), 4.0 if norm == "linf" else 12.0
    adv = perturb(APGD(eps=eps, norm=norm, loss=loss, steps=steps), aim, x, Leaf(), generator())
    starts = Ball.around(x, eps=eps, norm=norm, leaf=Leaf()).edge(generator())
    for i in range(len(x)):
        one = aim.take(torch.tensor([i]))
        value = (
            (lambda z, one=one: dlr(one, net(z[None]))[0]) if loss == "dlr" else (lambda z, one=one: one(z[None])[0])
        )
        expected = ensemble_twins.apgd(value, x[i], starts[i], eps / 255, steps, norm)
        torch.testing.assert_close(adv[i], expected, atol=2e-5 * eps / 255, rtol=0)


def test_checkpoints_are_those_of_the_paper():
    assert sorted(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(1) == {1}


def test_the_step_is_halved_where_the_loss_stops_rising():
    """On a concave loss with its top inside the ball, a fixed step of two budgets would jump about it for ever."""
    top = torch.full((1, 4), 0.5, dtype=torch.float64) + torch.tensor([0.3, -0.2, 0.1, 0.0], dtype=torch.float64) / 255
    loss = lambda z: -((z - top) ** 2).sum(1)  # noqa: E731 - used here alone
    x = torch.full((1, 4), 0.5, dtype=torch.float64)
    adv = perturb(APGD(eps=1.0, steps=100), loss, x, Leaf(), generator())
    assert ((adv - top).abs() * 255).max() < 0.02


def test_more_restarts_find_no_less():
    net = classifier(1)
    x, y = samples(net)
    aim = aim_of(net, y, leave=False)
    one, four = (perturb(APGD(eps=6, steps=3, restarts=k), aim, x, Leaf(), generator()) for k in (1, 4))
    assert (aim(four) >= aim(one)).all()
    assert (aim(four) > aim(one)).any()


def test_dlr_ignores_shift_and_scale_of_the_logits_and_is_positive_when_wrong():
    logits = torch.tensor([[3.0, 1.0, 0.5, -2.0], [0.0, 2.0, 1.0, 1.5]])
    net = classifier()
    aim = aim_of(net, torch.tensor([0, 0]))
    # (1 - 3) / (3 - 0.5) and (2 - 0) / (2 - 1)
    torch.testing.assert_close(dlr(aim, logits), torch.tensor([-0.8, 2.0]))
    torch.testing.assert_close(dlr(aim, 7 * logits - 3), dlr(aim, logits))
    torch.testing.assert_close(logit_margin(aim, logits), torch.tensor([-2.0, 2.0]))


def test_refusals():
    for odd in ({"steps": 0}, {"restarts": 0}):
        with pytest.raises(InputError, match="at least 1"):
            APGD(**odd)
    with pytest.raises(InputError, match="unknown loss"):
        APGD(loss="hinge")
    net = classifier()
    x, y = samples(net)
    with pytest.raises(InputError, match="APGD-DLR: is for classification: the task declares no `labels`"):
        perturb(APGD(loss="dlr"), lambda z: z.sum((1, 2, 3)), x, Leaf(), generator())
    two = torch.nn.Sequential(net, torch.nn.Linear(5, 2).double())
    with pytest.raises(InputError, match="needs 3 classes, the model has 2"):
        perturb(APGD(loss="dlr"), aim_of(two, y % 2), x, Leaf(), generator())
    with pytest.raises(InputError, match=r"needs logits \(B, K\), got dict"):
        perturb(APGD(loss="ce"), aim_of(lambda z: {"logits": net(z)}, y), x, Leaf(), generator())
    with pytest.raises(InputError, match="one loss per sample"):
        perturb(APGD(), lambda z: net(z).sum(), x, Leaf(), generator())
