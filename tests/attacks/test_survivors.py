from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from small_classifier import aim_of, classifier, samples

from holdfast.attacks import survivors
from holdfast.attacks.pgd import PGD
from holdfast.attacks.seal import Ball, perturb
from holdfast.attacks.survivors import Survivors
from holdfast.core.discover import build, names
from holdfast.core.space import Leaf

ITERATED = ["pgd", "apgd", "apgd_t", "fab", "square"]
SHORT = {"eps": 4.0, "steps": 12, "queries": 60, "targets": 3, "random_start": True}


def short(name, **options):
    attack = build("attack", name)
    known = {field.name for field in fields(attack)}
    return replace(attack, **{key: value for key, value in {**SHORT, **options}.items() if key in known})


def attacked(attack, aim, x):
    return perturb(attack, aim, x, Leaf(), torch.Generator().manual_seed(0))


def test_all_iterated_attacks_are_in_these_tests():
    assert set(names("attack")) - {"fgsm", "fgsm_rs", "fgm", "power_iteration", "autoattack"} == set(ITERATED)


@pytest.mark.parametrize("name", ITERATED)
def test_nobodys_fate_depends_on_who_has_left(name):
    net = classifier(5)
    x, y = samples(net, n=10)
    together = attacked(short(name), aim_of(net, y), x)
    broken = net(together).argmax(1) != y
    assert 0 < broken.sum() < 10
    for i in (int(broken.nonzero()[0]), int((~broken).nonzero()[0]), 9):
        others_stay = attacked(short(name), aim_of(net, y, only=i), x)
        torch.testing.assert_close(others_stay[i], together[i], atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", [*ITERATED, "autoattack"])
def test_rare_departures_change_no_verdict_and_no_point(name, monkeypatch):
    net = classifier(5)
    x, y = samples(net, n=10)
    at_once = attacked(short(name), aim_of(net, y), x)
    monkeypatch.setattr(survivors, "CPU_STEPS", 5)
    torch.testing.assert_close(attacked(short(name), aim_of(net, y), x), at_once, atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", ["pgd", "apgd"])
def test_no_pass_is_spent_on_a_broken_sample(name):
    """Passes are the sum over samples of the looks up to the one that breaks them."""
    net = classifier(5)
    x, y = samples(net, n=24)
    seen, passes = [], []

    def watched(stay):
        aim = aim_of(net, y, leave=not stay)

        def forward(z, batch):
            logits = net(z)
            if stay:
                seen.append(logits.argmax(1) != batch["y"])
            else:
                passes.append(len(z))
            return logits

        return replace(aim, forward=forward)

    attack = short(name, eps=4.0, steps=30)
    attacked(attack, watched(stay=True), x)
    attacked(attack, watched(stay=False), x)
    broken = torch.stack(seen)  # (looks, samples)
    first = torch.where(broken.any(0), broken.double().argmax(0) + 1, len(broken))
    assert 0 < int(broken.any(0).sum()) < 24
    assert sum(passes) == int(first.sum())
    assert sum(passes) < 0.8 * len(broken) * 24


def test_what_broke_a_sample_is_kept_and_the_rest_gets_the_strongest_offer():
    x = torch.rand(4, 3, dtype=torch.float64)
    live = Survivors(
        replace(aim_of(classifier(), torch.zeros(4).long())), Ball.around(x, eps=1, norm="linf", leaf=Leaf())
    )
    state = live.leave(x + 1, torch.tensor([False, True, False, False]), {"z": x + 1})
    assert live.rows.tolist() == [0, 2, 3]
    assert torch.equal(state["z"], (x + 1)[[0, 2, 3]])
    live.offer(x[live.rows] + 2, torch.tensor([1.0, 1.0, 1.0]))
    live.offer(x[live.rows] + 3, torch.tensor([0.0, 2.0, 1.0]))
    expected = torch.stack([x[0] + 2, x[1] + 1, x[2] + 3, x[3] + 2])
    torch.testing.assert_close(live.found, expected)
    assert torch.equal(live.among(torch.arange(4)), torch.tensor([0, 2, 3]))


def test_a_faster_engine_is_confirmed_by_the_model():
    net = classifier(7)
    x, y = samples(net)
    honest, aim = [], aim_of(net, y)

    def lies(z, batch):
        """Calls everything broken."""
        logits = net(z)
        return logits.scatter(1, batch["y"][:, None], -1e3)

    def forward(z, batch):
        honest.append(len(z))
        return net(z)

    adv = attacked(short("square", eps=0.5, queries=5), replace(aim, engine=lies, forward=forward), x)
    assert torch.equal(net(adv).argmax(1), y)
    assert honest
    same = attacked(short("square"), replace(aim, engine=lambda z, batch: net(z)), x)
    assert torch.equal(same, attacked(short("square"), aim, x))


@pytest.mark.parametrize("name", ["pgd", "apgd", "apgd_t", "fab", "autoattack"])
def test_no_engine_makes_an_attack_call_broken_what_the_model_holds(name):
    net = classifier(7)
    x, y = samples(net)
    aim = aim_of(net, y)

    def shifted(z, batch):
        """Breaks much sooner than the model does."""
        return net(z) - 0.5 * torch.nn.functional.one_hot(batch["y"], 5)

    broken = []

    def failed(outputs, batch):
        wrong = outputs.argmax(1) != batch["y"]
        broken.append(int(wrong.sum()))
        return wrong

    lied = replace(aim, engine=shifted, failed=failed)
    attacked(short(name, eps=0.02), lied, x)
    assert sum(broken) > 0  # the engine did call some broken
    live = Survivors(lied, Ball.around(x, eps=0.02, norm="linf", leaf=Leaf()))
    _, by_engine = live.look(x)
    assert not by_engine.any()  # and the model did not


def test_an_attack_on_nobody_left_ends():
    net = classifier()
    x, y = samples(net)
    wrong = (y + 1) % 5
    for name in [*ITERATED, "autoattack"]:
        adv = attacked(short(name), aim_of(net, wrong), x)
        assert (net(adv).argmax(1) != wrong).all()


def test_plain_losses_keep_everybody():
    net = classifier()
    x, y = samples(net)
    loss = lambda z: torch.nn.functional.cross_entropy(net(z), y, reduction="none")  # noqa: E731 - as a user writes it
    torch.testing.assert_close(attacked(PGD(eps=4), loss, x), attacked(PGD(eps=4), aim_of(net, y, leave=False), x))
