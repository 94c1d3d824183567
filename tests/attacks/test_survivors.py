from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from small_classifier import aim_of, classifier, samples

from holdfast.attacks import survivors
from holdfast.attacks.pgd import PGD
from holdfast.attacks.samples import per_sample_length
from holdfast.attacks.seal import Ball, perturb
from holdfast.attacks.survivors import Survivors
from holdfast.core.discover import build, names
from holdfast.core.errors import InputError
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


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ["apgd_t", "fab"])
def test_runs_side_by_side_are_runs_in_turns(name, norm, monkeypatch):
    net = classifier(5)
    x, y = samples(net, n=10)
    attack = short(name, norm=norm, eps=4.0 if norm == "linf" else 12.0)
    found, verdicts, calls = [], [], []
    for room in (survivors.ROOM, 2 * (x.numel() + 20), 1):  # three at once, two and one, one after the other
        monkeypatch.setattr(survivors, "ROOM", room)
        found.append(attacked(attack, aim_of(net, y, leave=False), x))
        counted = []

        def forward(z, batch, counted=counted):
            counted.append(len(z))
            return net(z)

        verdicts.append(net(attacked(attack, replace(aim_of(net, y), forward=forward), x)).argmax(1) != y)
        calls.append(len(counted))
    for other in (1, 2):
        torch.testing.assert_close(found[other], found[0], atol=1e-9, rtol=0)
        assert torch.equal(verdicts[other], verdicts[0])
    assert 0 < verdicts[0].sum() < 10
    assert calls[0] < calls[1] < calls[2]


def test_a_sample_that_one_of_its_runs_breaks_leaves_all_of_them():
    x = torch.rand(4, 3, dtype=torch.float64)
    aim = aim_of(classifier(), torch.arange(4))
    live = Survivors(aim, Ball.around(x, eps=1, norm="linf", leaf=Leaf()))
    live.leave(x, torch.tensor([True, False, False, False]), {})
    live.aim_at(torch.tensor([[0, 0], [1, 4], [2, 4], [3, 4]]))
    assert live.aim.targets.tolist() == [1, 2, 3, 4, 4, 4]
    assert live.aim.labels.tolist() == [1, 2, 3, 1, 2, 3]
    z = torch.arange(6.0, dtype=torch.float64)[:, None].expand(6, 3) + 10
    state = live.leave(z, torch.tensor([False, False, False, False, True, False]), {"z": z})
    assert live.rows.tolist() == [1, 3]
    assert live.aim.targets.tolist() == [1, 3, 4, 4]
    assert state["z"][:, 0].tolist() == [10, 12, 13, 15]
    assert torch.equal(live.ball.x, x[[1, 3, 1, 3]])
    live.offer(state["z"], torch.tensor([1.0, 5.0, 2.0, 4.0]))
    with pytest.raises(InputError, match="one loss per sample"):
        live.offer(state["z"][:2], torch.ones(2))
    live.end_run()
    assert live.found[:, 0].tolist() == [float(x[0, 0]), 13.0, 14.0, 12.0]
    assert torch.equal(live.ball.x, x[[1, 3]])
    assert live.aim.labels.tolist() == [1, 3]


def test_large_batches_run_one_after_the_other():
    def abreast(n, **batch):
        x = torch.zeros(n, 3, 32, 32)
        aim = replace(aim_of(classifier(), torch.zeros(n).long()), batch=batch)
        return Survivors(aim, Ball.around(x, eps=1, norm="linf", leaf=Leaf())).abreast

    assert abreast(4) == 21
    assert abreast(64) == 1
    assert abreast(4, other=torch.zeros(4, 3 * 32 * 32)) == 10  # what goes through the model beside it counts, too
    assert abreast(4, weights=torch.ones(10)) == 1  # not of samples: cannot be repeated for them
    assert abreast(4, scale=torch.tensor(1.0)) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", [*ITERATED, "autoattack"])
def test_inputs_in_half_precision(name, norm, dtype):
    net = classifier(5)
    x, y = samples(net, n=10)
    aim = aim_of(lambda z: net(z.double()), y)
    half = x.to(dtype)
    eps = 8.0 if norm == "linf" else 24.0
    adv = attacked(short(name, norm=norm, eps=eps), aim, half)
    assert adv.dtype == dtype
    length = per_sample_length(255 * (adv.double() - half.double()), norm)
    assert (length <= eps * (1.0 if norm == "linf" else 1.05)).all()  # in half precision L2 rounds each element
    assert bool((adv >= 0).all() & (adv <= 1).all())
    assert (net(adv.double()).argmax(1) != y).any()


def test_a_run_that_ended_in_nan_takes_nothing_from_the_others():
    x = torch.rand(2, 3, dtype=torch.float64)
    live = Survivors(aim_of(classifier(), torch.arange(2)), Ball.around(x, eps=1, norm="linf", leaf=Leaf()))
    live.aim_at(torch.tensor([[2, 3], [2, 3]]))
    z = torch.arange(4.0, dtype=torch.float64)[:, None].expand(4, 3)
    live.offer(z, torch.tensor([torch.nan, 1.0, 2.0, torch.nan]))
    assert live.found[:, 0].tolist() == [2.0, 1.0]


def test_of_runs_side_by_side_the_first_gradients_count():
    net = classifier(5)
    x, _ = samples(net, n=10)
    x[:3] = 0.0

    def forward(z, batch):
        return net(z * (z.flatten(1).sum(1) > 1e-6).view(-1, 1, 1, 1))  # nothing comes back to an empty image

    report = {}
    aim = replace(aim_of(net, forward(x, None).argmax(1), leave=False), forward=forward)
    perturb(short("fab", eps=0.5), aim, x, Leaf(), torch.Generator().manual_seed(0), report=report)
    assert int(report["zero_gradient"]) == 3
