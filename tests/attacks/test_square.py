from __future__ import annotations

import math
from dataclasses import replace

import ensemble_twins
import pytest
import torch
from small_classifier import aim_of, classifier, samples

from holdfast.attacks import look_ahead
from holdfast.attacks.classes import logit_margin
from holdfast.attacks.proposals import Draws, bump, cut, move_mass
from holdfast.attacks.seal import Ball, perturb
from holdfast.attacks.square import Square, _sides
from holdfast.attacks.survivors import Survivors
from holdfast.core.errors import InputError
from holdfast.core.space import Leaf


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def test_equals_the_twin_on_the_same_draws():
    net = classifier(1)
    x, y = samples(net)
    aim, attack = aim_of(net, y, leave=False), Square(eps=3, queries=80)
    adv = perturb(attack, aim, x, Leaf(), draws())
    drawn = Draws(Ball.around(x, eps=3, norm="linf", leaf=Leaf()), draws(), 80)
    start = drawn.stripes()
    windows = [drawn.window(q, side) for q, side in enumerate(_sides((5, 5), attack.share, 80))]
    signs = drawn.signs.unbind()
    for i in range(len(x)):
        margin = lambda z, i=i: logit_margin(aim.take(torch.tensor([i])), net(z[None])).item()  # noqa: E731 - one for each
        expected = ensemble_twins.square_linf(margin, x[i], start[i], 3 / 255, windows, signs)
        torch.testing.assert_close(adv[i], expected, atol=1e-9, rtol=0)


def test_starts_as_stripes_at_the_corners_of_the_ball():
    x = torch.full((6, 3, 9, 7), 0.5)
    delta = (Draws(Ball.around(x, eps=2, norm="linf", leaf=Leaf()), draws(), 1).stripes() - x) * 255
    assert torch.allclose(delta.abs(), torch.tensor(2.0), rtol=1e-4)
    assert torch.equal(delta, delta[:, :, :1].expand_as(delta))
    assert len({tuple(row.tolist()) for row in delta[:, 0, 0].sign()}) > 1


def test_the_side_shrinks_as_published():
    found = _sides((100, 100), 0.8, 8002)
    sides = {q: found[q] for q in (0, 10, 11, 50, 51, 201, 4999, 8001)}
    shares = {0: 0.8, 10: 0.8, 11: 0.4, 50: 0.4, 51: 0.2, 201: 0.1, 4999: 0.8 / 128, 8001: 0.8 / 512}
    assert sides == {q: round(100 * share**0.5) for q, share in shares.items()}


def test_windows_stay_inside_and_reach_every_place():
    drawn = Draws(Ball.around(torch.zeros(1, 1, 6, 4), eps=1, norm="linf", leaf=Leaf()), draws(), 400)
    seen = {(w[0].start, w[0].stop, w[1].start, w[1].stop) for w in (drawn.window(q, 3) for q in range(400))}
    assert seen == {(r, r + 3, c, c + 3) for r in range(4) for c in range(2)}


def test_a_bump_is_two_opposite_halves_of_length_one():
    for size in (1, 2, 5, 8):
        shape = bump(size, size, torch.device("cpu"), torch.float64)
        assert float(shape.norm()) == pytest.approx(1.0)
        assert (shape[: size // 2] > 0).all()
        assert (shape[size // 2 :] < 0).all()
    # Published: sums of nested rectangles 1/k^2 about the middle of each half.
    n, q = 1 / 9, 1 / 4 + 1 / 9
    upper = torch.tensor([[n, q, q, q], [n, q, 1 + q, q]])
    ours = bump(4, 4, torch.device("cpu"), torch.float64)[:2]
    torch.testing.assert_close(ours / ours.norm(), (upper / upper.norm()).double(), check_stride=False)


def test_mass_moves_from_one_window_into_a_bump_in_another():
    x = torch.full((2, 2, 12, 12), 0.5, dtype=torch.float64)
    ball = Ball.around(x, eps=100, norm="l2", leaf=Leaf())
    drawn = Draws(ball, draws(3), 30)
    z = drawn.bumps()
    for query in range(30):
        before = ball.scaled(z)
        kept = z.clone()
        moved = move_mass(ball, z, drawn, query, 3)
        assert torch.equal(z, kept)
        z, after = moved, ball.scaled(moved)
        assert torch.allclose(after.flatten(1).norm(dim=1), torch.ones(2).double(), atol=1e-4)
        into, out_of = drawn.window(query, 3), drawn.window(query, 3, which=1)
        if into[0].stop <= out_of[0].start or out_of[0].stop <= into[0].start:
            assert cut(after, out_of).abs().max() < 1e-9
        elsewhere = torch.ones(12, 12, dtype=torch.bool)
        elsewhere[into], elsewhere[out_of] = False, False
        scale = (after * before)[:, :, elsewhere].sum((1, 2)) / (before**2)[:, :, elsewhere].sum((1, 2))
        scaled = scale[:, None, None] * before[:, :, elsewhere]
        torch.testing.assert_close(after[:, :, elsewhere], scaled, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("shape", [(40,), (6, 7), (2, 5, 5), (2, 2, 4, 5)])
def test_any_shape_is_attacked(norm, shape):
    torch.manual_seed(0)
    size = int(torch.tensor(shape).prod())
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(size, 5)).double()
    x = torch.rand(6, *shape, dtype=torch.float64)
    y = net(x).argmax(1)
    aim = aim_of(net, y, leave=False)
    adv = perturb(Square(eps=8 if norm == "linf" else 40, norm=norm, queries=60), aim, x, Leaf(), draws())
    gained = logit_margin(aim, net(adv)) - logit_margin(aim, net(x))
    assert (gained > 0).all()


def test_more_queries_find_more_and_the_margin_never_falls():
    net = classifier(2)
    x, y = samples(net)
    aim = aim_of(net, y, leave=False)
    attacked = [perturb(Square(eps=6, queries=q), aim, x, Leaf(), draws()) for q in (1, 10, 200)]
    with torch.no_grad():
        found = [logit_margin(aim, net(views)) for views in attacked]
    # The draws of a longer attack are others, so that only the means are compared.
    assert float(found[0].mean()) < float(found[1].mean()) < float(found[2].mean())


def test_refusals():
    for odd in ({"queries": 0}, {"share": 0.0}, {"share": 1.5}):
        with pytest.raises(InputError, match="at least 1 query"):
            Square(**odd)
    with pytest.raises(InputError, match="Square: is for classification"):
        perturb(Square(), lambda z: z.sum((1, 2, 3)), torch.rand(2, 1, 4, 4), Leaf(), draws())


@pytest.mark.parametrize("shape", [(2, 5, 5), (7, 6), (12,)])
@pytest.mark.parametrize("leave", [False, True])
def test_looking_ahead_changes_nothing_and_asks_less_often(shape, leave, monkeypatch):
    torch.manual_seed(3)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(math.prod(shape), 5)).double()
    x = 0.2 + 0.6 * torch.rand(12, *shape, dtype=torch.float64)
    y, asked = net(x).argmax(1), []
    aim = aim_of(net, y, leave=leave)
    counted = replace(aim, forward=lambda z, batch: asked.append(len(z)) or net(z))
    found, calls, samples_asked = [], [], []
    for waste in (0.0, 0.1, 3.0):
        monkeypatch.setattr(look_ahead, "WASTE", waste)
        asked.clear()
        found.append(perturb(Square(eps=6, queries=300), counted, x, Leaf(), draws()))
        calls.append(len(asked))
        samples_asked.append(sum(asked))
    # In turn, as on devices that would have to be waited for.
    monkeypatch.setattr(Survivors, "looks_ahead", False)
    found.append(perturb(Square(eps=6, queries=300), counted, x, Leaf(), draws()))
    assert all(torch.equal(adv, found[0]) for adv in found)
    assert calls[0] > 1.3 * calls[1] > 1.3 * calls[2]
    assert samples_asked[1] < 1.15 * samples_asked[0]


def test_nobody_looks_ahead_where_samples_do_not_stand_alone():
    net = classifier(2)
    x, y = samples(net)
    aim = replace(aim_of(net, y), batch={"y": y, "shared": torch.rand(3)})
    ball = Ball.around(x, eps=6, norm="linf", leaf=Leaf())
    assert Survivors(aim_of(net, y), ball).looks_ahead
    assert not Survivors(aim, ball).looks_ahead
    assert not Survivors(aim_of(net, y), ball, wait=8).looks_ahead


def test_looks_are_as_large_as_the_memory_allows(monkeypatch):
    """What is repeated for each proposal is the batch, too; and a model that refuses everything asks for no end."""
    net = classifier(2)
    x, y = samples(net)
    monkeypatch.setattr(look_ahead, "NUMBERS", 10_000)
    ball = Ball.around(x, eps=6, norm="linf", leaf=Leaf())
    alone = Survivors(aim_of(net, y), ball)
    assert look_ahead._count(alone, 0.0) == 16  # eight samples of fifty numbers, a label and a row
    heavy = Survivors(replace(aim_of(net, y), batch={"y": y, "map": torch.rand(8, 300)}), ball)
    assert look_ahead._count(heavy, 0.0) == 2
