from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from holdfast.attacks.fgsm import FGSM
from holdfast.attacks.pgd import PGD
from holdfast.attacks.seal import Ball, crafting, perturb
from holdfast.core.errors import InputError, NoEffectError
from holdfast.core.space import Leaf


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def small_net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5),
                         nn.Flatten(), nn.Linear(4 * 36, 3))  # fmt: skip


def images(n=4, seed=0):
    return torch.rand(n, 3, 6, 6, generator=generator(seed))


def loss_of(net, y):
    return lambda x: nn.functional.cross_entropy(net(x), y, reduction="none")


def snapshot(net):
    return {name: value.clone() for name, value in net.state_dict().items()}, [m.training for m in net.modules()]


LABELS = torch.tensor([0, 1, 2, 0])


@dataclass(frozen=True)
class Unruly:
    """An attack that breaks every rule an author could break."""

    eps: float = 1.0
    norm: str = "linf"
    value: float = 1e6

    def craft(self, loss, x, ball, generator):
        x += 0.25  # the published aliasing bug: mutate what was given, then answer with something far away
        loss(x.requires_grad_(False))
        return x + self.value

    def passes(self):
        return 0.0, 0.0


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("value", [1e6, -1e6, float("nan"), float("inf")])
def test_an_attack_that_breaks_every_rule_is_held_to_the_promise(norm, value):
    x, leaf = images(), Leaf()
    before = x.clone()
    adv = perturb(Unruly(norm=norm, value=value), lambda z: z.sum(dim=(1, 2, 3)), x, leaf, generator())
    assert torch.equal(x, before)
    size = (adv.double() - x.double()) * 255
    reach = size.abs().max() if norm == "linf" else size.flatten(1).norm(dim=1).max()
    assert reach <= 1 + 1e-5
    assert adv.min() >= 0
    assert adv.max() <= 1


@settings(max_examples=60, deadline=None)
@given(
    eps=st.floats(0, 300), low=st.floats(-3, 0), width=st.floats(0.1, 300), bits=st.sampled_from([8, 10, 12]),
    mean=st.floats(-2, 2), std=st.floats(0.01, 50), norm=st.sampled_from(["linf", "l2"]), seed=st.integers(0, 9),
)  # fmt: skip
def test_every_projection_lies_in_the_ball_and_in_the_range(eps, low, width, bits, mean, std, norm, seed):
    leaf = Leaf(low=low, high=low + width, unit=width / (2**bits - 1), mean=mean, std=std)
    physical = low + width * torch.rand(3, 2, 4, 4, generator=generator(seed))
    x = leaf.clip((physical - mean) / std)
    ball = Ball.around(x, eps=eps, norm=norm, leaf=leaf)
    for z in (ball.start(generator(seed)), ball.project(x + 1e3 * torch.randn(x.shape, generator=generator(seed)))):
        assert torch.equal(z, leaf.clip(z))
        delta, budget = z.double() - x.double(), eps * leaf.unit / std
        reach = delta.abs().max() if norm == "linf" else delta.flatten(1).norm(dim=1).max()
        # The stored budget is rounded to float32; in L2 so is every element of x + delta.
        rounding = 1e-6 * float(x.abs().max()) if norm == "l2" and budget else 0.0
        assert reach <= budget * (1 + 1e-6) + rounding
        assert torch.equal(ball.project(x), x)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_budget_zero_is_the_exact_identity_even_outside_the_range_by_rounding(norm):
    x = images()
    x[0, 0, 0, 0] = -1e-4
    adv = perturb(FGSM(eps=0.0, norm=norm), lambda z: (z**2).sum(dim=(1, 2, 3)), x, Leaf(), generator())
    assert torch.equal(adv, x)
    assert adv.data_ptr() != x.data_ptr()


@pytest.mark.parametrize("mode", ["eval", "train", "frozen"])
@pytest.mark.parametrize("fails", [False, True])
def test_model_comes_back_as_it_was(mode, fails):
    net = small_net().train()
    net[2].eval()
    net[0].bias.requires_grad_(False)
    state, modes = snapshot(net)
    flags = [p.requires_grad for p in net.parameters()]

    def loss(x):
        value = loss_of(net, LABELS)(x)
        if fails:
            raise RuntimeError("midway")
        return value

    if fails:
        with pytest.raises(RuntimeError, match="midway"):
            perturb(PGD(eps=1), loss, images(), Leaf(), generator(), model=net, bn_during_attack=mode)
    else:
        perturb(PGD(eps=1), loss, images(), Leaf(), generator(), model=net, bn_during_attack=mode)
    after, modes_after = snapshot(net)
    assert all(torch.equal(state[name], after[name]) for name in state)
    assert modes_after == modes
    assert [p.requires_grad for p in net.parameters()] == flags
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize(
    ("mode", "bn_trains", "dropout_trains"),
    [("eval", False, False), ("train", True, True), ("frozen", False, True)],
)
def test_modes_while_crafting(mode, bn_trains, dropout_trains):
    net = small_net().train()
    with crafting(net, mode):
        assert (net[1].training, net[3].training) == (bn_trains, dropout_trains)


def test_recurrent_layers_without_dropout_keep_their_mode_for_cudnn():
    net = nn.ModuleList([nn.LSTM(2, 2), nn.LSTM(2, 2, num_layers=2, dropout=0.1)]).train()
    with crafting(net):
        assert [m.training for m in net] == [True, False]


@pytest.mark.parametrize("mode", ["eval", "train", "frozen"])
def test_a_graph_made_before_crafting_can_still_be_differentiated(mode):
    net, other = small_net().train(), small_net().train()
    for n in (net, other):
        n[3].p = 0.0
    expected = loss_of(other, LABELS)(images()).sum()
    expected.backward()
    before = loss_of(net, LABELS)(images()).sum()
    perturb(FGSM(eps=1), loss_of(net, LABELS), images(), Leaf(), generator(), model=net, bn_during_attack=mode)
    before.backward()
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


class _CountWeightGradients(torch.autograd.Function):
    """x * w that counts how often its weight gradient is asked for, as a compiled backward would compute it."""

    asked = 0

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x * w

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        _CountWeightGradients.asked += ctx.needs_input_grad[1]
        return g * w, (g * x).sum() if ctx.needs_input_grad[1] else None


def test_no_weight_gradient_is_computed_even_by_functions_that_do_not_look_at_what_is_needed():
    net = nn.ParameterList([torch.tensor(2.0)])
    _CountWeightGradients.asked = 0
    perturb(PGD(eps=1, steps=3), lambda z: _CountWeightGradients.apply(z, net[0]).sum(dim=(1, 2, 3)), images(), Leaf(),
            generator(), model=net)  # fmt: skip
    assert _CountWeightGradients.asked == 0


def test_crafting_needs_no_grad_to_be_enabled_outside():
    net = small_net().eval()
    with torch.no_grad():
        adv = perturb(FGSM(eps=1), loss_of(net, LABELS), images(), Leaf(), generator(), model=net)
    assert not torch.equal(adv, images())
    assert not adv.requires_grad


def test_zero_gradient_samples_are_counted():
    report: dict[str, torch.Tensor] = {}
    weight = torch.tensor([1.0, 0.0, float("inf"), 2.0]).view(4, 1, 1, 1)
    perturb(
        PGD(eps=1, steps=2), lambda z: (z * weight).sum(dim=(1, 2, 3)), images(), Leaf(), generator(), report=report
    )
    assert int(report["zero_gradient"]) == 2


def test_a_loss_that_does_not_read_the_input_is_refused():
    with pytest.raises(NoEffectError, match="does not depend"):
        perturb(FGSM(), lambda z: torch.zeros(4), images(), Leaf(), generator())
    other = torch.zeros(4, requires_grad=True)
    with pytest.raises(NoEffectError, match="does not depend"):
        perturb(FGSM(), lambda z: other, images(), Leaf(), generator())


def test_several_leaves_are_perturbed_jointly_each_in_its_own_unit():
    x = {"image": images(), "speed": torch.rand(4, 2, generator=generator(1)) * 20}
    leaves = {"image": Leaf(), "speed": Leaf(high=40.0, unit=0.5)}
    attack = FGSM(eps={"image": 2.0, "speed": 3.0})
    adv = perturb(attack, lambda z: z["image"].sum(dim=(1, 2, 3)) - z["speed"].sum(dim=1), x, leaves, generator())
    assert torch.allclose(adv["image"], leaves["image"].clip(x["image"] + 2 / 255), atol=1e-6)
    assert torch.allclose(adv["speed"], leaves["speed"].clip(x["speed"] - 1.5), atol=1e-5)
    assert adv["image"].shape == x["image"].shape


def test_joint_l2_budget_covers_all_leaves_together():
    x = {"a": torch.full((2, 3), 0.5), "b": torch.full((2, 2, 2), 0.5)}
    leaves = {"a": Leaf(), "b": Leaf()}
    adv = perturb(FGSM(eps=10.0, norm="l2"), lambda z: z["a"].sum(1) + z["b"].sum((1, 2)), x, leaves, generator())
    size = sum(((adv[k] - x[k]) * 255).flatten(1).pow(2).sum(1) for k in x).sqrt()
    assert torch.allclose(size, torch.full((2,), 10.0), rtol=2e-5)


def test_budgets_by_channel_and_by_sample():
    x, loss = torch.full((2, 3, 2, 2), 0.5), lambda z: z.sum(dim=(1, 2, 3))
    by_channel = perturb(FGSM(eps=(0.0, 1.0, 2.0)), loss, x, Leaf(), generator()) - x
    assert torch.allclose(by_channel[0, :, 0, 0] * 255, torch.tensor([0.0, 1.0, 2.0]), atol=1e-4)
    by_sample = perturb(FGSM(eps=torch.tensor([0.0, 3.0])), loss, x, Leaf(), generator()) - x
    assert torch.allclose(by_sample[:, 0, 0, 0] * 255, torch.tensor([0.0, 3.0]), atol=1e-4)


def test_bad_budgets_are_refused():
    x, loss = images(), lambda z: z.sum(dim=(1, 2, 3))
    with pytest.raises(InputError, match="negative"):
        perturb(FGSM(eps=-1), loss, x, Leaf(), generator())
    with pytest.raises(InputError, match="3 channels"):
        perturb(FGSM(eps=(1.0, 2.0)), loss, x, Leaf(), generator())
    with pytest.raises(InputError, match="cannot be perturbed"):
        perturb(FGSM(), loss, torch.zeros(4, 3, dtype=torch.int64), Leaf(), generator())
    with pytest.raises(InputError, match="unknown norm"):
        perturb(FGSM(norm="l1"), loss, x, Leaf(), generator())
    with pytest.raises(InputError, match="no budget for leaf 'b'"):
        perturb(FGSM(eps={"a": 1.0}), lambda z: z["b"].sum(1), {"b": torch.rand(2, 2)}, {"b": Leaf()}, generator())
    with pytest.raises(InputError, match="share a batch"):
        perturb(FGSM(), loss, {"a": torch.rand(2, 2), "b": torch.rand(3, 2)}, {"a": Leaf(), "b": Leaf()}, generator())
    with pytest.raises(InputError, match="bn_during_attack"):
        perturb(FGSM(), loss, x, Leaf(), generator(), model=small_net(), bn_during_attack="off")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    net = small_net().train()
    with torch.autocast("cpu", dtype=dtype):
        adv = perturb(PGD(eps=2, steps=2), loss_of(net, LABELS), images(), Leaf(), generator(), model=net)
        loss = loss_of(net, LABELS)(adv).mean()
    loss.backward()
    assert adv.dtype == torch.float32
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert (adv - images()).abs().max() <= 2 / 255 + 1e-7


def test_channels_last_is_kept():
    net = small_net().to(memory_format=torch.channels_last)
    x = images().to(memory_format=torch.channels_last)
    for attack in (FGSM(), PGD(eps=2, steps=2)):
        adv = perturb(attack, loss_of(net, LABELS), x, Leaf(), generator(), model=net)
        assert adv.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "eps", [np.float32(2.0), np.int64(2), np.float64(2.0), 2, [2.0, 2.0, 2.0], torch.full((4,), 2.0)]
)
def test_a_budget_may_be_any_number(eps):
    loss = lambda z: (z**2).sum(dim=(1, 2, 3))  # noqa: E731 - used here alone
    expected = perturb(FGSM(eps=2.0), loss, images(), Leaf(), generator())
    torch.testing.assert_close(perturb(FGSM(eps=eps), loss, images(), Leaf(), generator()), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_one_step_in_other_precisions(dtype, norm):
    x = images().to(dtype)
    adv = perturb(FGSM(eps=8.0, norm=norm), lambda z: (z**2).sum(dim=(1, 2, 3)), x, Leaf(), generator())
    assert adv.dtype == dtype
    assert adv.isfinite().all()
    assert not torch.equal(adv, x)


def test_tensors_of_inference_mode_are_attacked_like_others():
    with torch.inference_mode():
        x = images()
    net = small_net().eval()
    expected = perturb(FGSM(eps=2.0), loss_of(net, LABELS), images(), Leaf(), generator(), net)
    assert torch.equal(perturb(FGSM(eps=2.0), loss_of(net, LABELS), x, Leaf(), generator(), net), expected)
