"""Every attack that is found keeps the promises of `holdfast.attacks.seal`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_tasks import classification, images, model_of

from holdfast.attacks.seal import perturb
from holdfast.core.discover import build, names
from holdfast.core.space import Leaf

ATTACKS = names("attack")


def crafted(attack, *, leaf=None, batch=None, model=None, seed=0, mode="eval", report=None):
    batch = batch or images()
    model = model or model_of(classification())
    leaf = leaf or Leaf()
    loss = lambda z: torch.nn.functional.cross_entropy(model(z), batch["y"], reduction="none")  # noqa: E731 - as in a notebook
    return perturb(attack, loss, batch["image"], leaf, torch.Generator().manual_seed(seed), model, mode, report)


def test_some_attacks_are_found():
    assert {"fgsm", "pgd"} <= set(ATTACKS)


@pytest.mark.parametrize("name", ATTACKS)
@settings(max_examples=15, deadline=None)
@given(eps=st.floats(0, 100), seed=st.integers(0, 5), shift=st.floats(-1, 1), scale=st.floats(0.05, 4))
def test_inside_ball_and_range_and_input_unchanged(name, eps, seed, shift, scale):
    attack = replace(build("attack", name), eps=eps)
    leaf = Leaf(mean=shift, std=scale)
    batch = images(seed=seed)
    batch["image"] = leaf.clip((batch["image"] - shift) / scale)
    before = batch["image"].clone()
    adv = crafted(attack, leaf=leaf, batch=batch, seed=seed)
    assert torch.equal(batch["image"], before)
    assert adv.data_ptr() != batch["image"].data_ptr()
    assert (adv.shape, adv.dtype, adv.requires_grad) == (before.shape, before.dtype, False)
    assert torch.equal(leaf.clip(adv), adv)
    delta = adv.double() - before.double()
    size = delta.abs().max() if attack.norm == "linf" else delta.flatten(1).norm(dim=1).max()
    budget = eps / 255 / scale
    assert size <= budget * (1 + 1e-6) + 1e-7 * float(before.abs().max()) * (attack.norm == "l2")
    if eps == 0:
        assert torch.equal(adv, before)


@pytest.mark.parametrize("name", ATTACKS)
def test_model_is_left_as_it_was(name):
    model = model_of(classification()).train()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    for mode in ("eval", "train", "frozen"):
        crafted(build("attack", name), model=model, mode=mode)
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
        assert all(module.training for module in model.modules())
        assert all(p.grad is None and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("name", ATTACKS)
def test_raises_the_loss_and_is_reproducible_from_the_seed(name):
    attack, batch = replace(build("attack", name), eps=16.0), images(n=24)
    model = model_of(classification()).eval()
    adv = crafted(attack, batch=batch, model=model, seed=3)
    assert torch.equal(adv, crafted(attack, batch=batch, model=model, seed=3))
    loss = [torch.nn.functional.cross_entropy(model(x), batch["y"]).item() for x in (batch["image"], adv)]
    assert loss[1] > loss[0]


@pytest.mark.parametrize("name", ATTACKS)
def test_reports_zero_gradients_and_counts_its_forwards(name):
    attack, batch = build("attack", name), images()
    model = model_of(classification()).eval()
    with torch.no_grad():
        model.head.weight.zero_()
    report: dict[str, torch.Tensor] = {}
    adv = crafted(attack, batch=batch, model=model, report=report)
    assert int(report["zero_gradient"]) == len(batch["y"])
    assert adv.isfinite().all()
    assert model.samples == attack.passes()[0] * len(batch["y"])
