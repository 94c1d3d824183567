"""Every attack that is found keeps the promises of `holdfast.attacks.seal`."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from toy_tasks import ConvNet, classification, images, model_of

from holdfast.attacks import hyperplane, survivors
from holdfast.attacks.aim import at_inputs
from holdfast.attacks.seal import perturb
from holdfast.core.discover import build, names
from holdfast.core.errors import InputError
from holdfast.core.space import Leaf

ATTACKS = names("attack")
FOR_ANY_TASK = {"apgd", "fgm", "fgsm", "fgsm_rs", "pgd"}
"""What must not begin to ask for classes."""
SHORT = {"steps": 4, "queries": 12, "targets": 2}
CLASSES = 5
TASK = classification(
    build_model=lambda: ConvNet(classes=CLASSES),
    labels=lambda batch: batch["y"],
    failed=lambda outputs, batch: outputs.argmax(1) != batch["y"],
)


def short(name, **options):
    """An attack with few steps: what is promised does not depend on their number."""
    attack = build("attack", name)
    known = {field.name for field in fields(attack)}
    return replace(attack, **{key: value for key, value in {**SHORT, **options}.items() if key in known})


def pictures(n=6, seed=0):
    batch = images(n=n, seed=seed)
    return {**batch, "y": torch.randint(0, CLASSES, (n,), generator=torch.Generator().manual_seed(seed))}


def crafted(attack, *, leaf=None, batch=None, model=None, seed=0, mode="eval", report=None, leave=False):
    batch = batch or pictures()
    model = model or model_of(TASK)
    aim = at_inputs(TASK, model, batch, leave=leave).through(lambda z: {"image": z})
    draws = torch.Generator().manual_seed(seed)
    return perturb(attack, aim, batch["image"], leaf or Leaf(), draws, model, mode, report)


def test_some_attacks_are_found():
    assert {"fgsm", "pgd", "apgd", "apgd_t", "fab", "square", "autoattack"} <= set(ATTACKS)


@pytest.mark.parametrize("name", ATTACKS)
@settings(max_examples=12, deadline=None)
@example(eps=0.0625, seed=0, shift=-1.0, scale=1.0, norm="l2", leave=False)  # a budget of some roundings
@given(
    eps=st.floats(0, 100), seed=st.integers(0, 5), shift=st.floats(-1, 1), scale=st.floats(0.05, 4),
    norm=st.sampled_from(["linf", "l2"]), leave=st.booleans(),
)  # fmt: skip
def test_inside_ball_and_range_and_input_unchanged(name, eps, seed, shift, scale, norm, leave):
    attack = short(name, eps=eps)
    if any(field.name == "norm" and field.init for field in fields(attack)):
        attack = replace(attack, norm=norm)
    leaf = Leaf(mean=shift, std=scale)
    batch = pictures(seed=seed)
    batch["image"] = leaf.clip((batch["image"] - shift) / scale)
    before = batch["image"].clone()
    adv = crafted(attack, leaf=leaf, batch=batch, seed=seed, leave=leave)
    assert torch.equal(batch["image"], before)
    assert adv.data_ptr() != batch["image"].data_ptr()
    assert (adv.shape, adv.dtype, adv.requires_grad) == (before.shape, before.dtype, False)
    assert torch.equal(leaf.clip(adv), adv)
    delta = adv.double() - before.double()
    size = delta.abs().max() if attack.norm == "linf" else delta.flatten(1).norm(dim=1).max()
    assert size <= eps / 255 / scale * (1 + 1e-6)
    if eps == 0:
        assert torch.equal(adv, before)


@pytest.mark.parametrize("name", ATTACKS)
def test_every_sample_keeps_its_own_budget(name):
    eps = torch.tensor([0.0, 1.0, 4.0, 16.0, 40.0, 80.0])
    batch = pictures()
    for leave in (False, True):
        adv = crafted(short(name, eps=eps), batch=batch, leave=leave)
        delta = (adv.double() - batch["image"].double()).flatten(1) * 255
        size = delta.abs().amax(1) if build("attack", name).norm == "linf" else delta.norm(dim=1)
        assert (size <= eps * (1 + 1e-5) + 1e-4).all()
        assert torch.equal(adv[0], batch["image"][0])


@pytest.mark.parametrize("name", ATTACKS)
def test_model_is_left_as_it_was(name):
    model = model_of(TASK).train()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    for mode in ("eval", "train", "frozen"):
        crafted(short(name), model=model, mode=mode)
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
        assert all(module.training for module in model.modules())
        assert all(p.grad is None and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("name", ATTACKS)
def test_raises_the_loss_and_is_reproducible_from_the_seed(name):
    attack, batch = short(name, eps=16.0, queries=40), pictures(n=24)
    model = model_of(TASK).eval()
    adv = crafted(attack, batch=batch, model=model, seed=3)
    assert torch.equal(adv, crafted(attack, batch=batch, model=model, seed=3))
    loss = [torch.nn.functional.cross_entropy(model(x), batch["y"]).item() for x in (batch["image"], adv)]
    assert loss[1] > loss[0]


@pytest.mark.parametrize("name", ATTACKS)
def test_reports_zero_gradients_and_counts_its_forwards(name):
    attack, batch = short(name), pictures()
    model = model_of(TASK).eval()
    with torch.no_grad():
        model.head.weight.zero_()
    report: dict[str, torch.Tensor] = {}
    adv = crafted(attack, batch=batch, model=model, report=report)
    forwards, backwards = attack.passes()
    assert ("zero_gradient" in report) == (backwards > 0)
    assert int(report.get("zero_gradient", len(batch["y"]))) == len(batch["y"])
    assert adv.isfinite().all()
    assert model.samples == forwards * len(batch["y"])


@pytest.mark.parametrize("name", ATTACKS)
def test_with_a_plain_loss_an_attack_works_or_says_what_it_needs(name):
    model, batch = model_of(TASK).eval(), pictures()
    loss = lambda z: torch.nn.functional.cross_entropy(model(z), batch["y"], reduction="none")  # noqa: E731 - as in a notebook
    try:
        adv = perturb(short(name), loss, batch["image"], Leaf(), torch.Generator().manual_seed(0), model)
    except InputError as error:
        assert name not in FOR_ANY_TASK
        assert "is for classification" in str(error)  # noqa: PT017 - a new attack may do the one or the other
    else:
        assert loss(adv).mean() > loss(batch["image"]).mean()


class CountSynchronisations(TorchDispatchMode):
    """Counts the operations that make the host wait for a device."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "item", "equal", "is_nonzero", "masked_select"):
            self.seen[name] += 1
        if name in ("index", "index_put", "index_put_"):
            self.seen[name] += any(i is not None and i.dtype == torch.bool for i in args[1])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ATTACKS)
def test_no_step_waits_for_the_device(name, monkeypatch):
    monkeypatch.setattr(survivors, "CPU_STEPS", 10**9)  # a count of survivors waits; it is taken between steps
    monkeypatch.setattr(hyperplane, "ASKED", ())  # as on an accelerator
    batch, model, waited = pictures(), model_of(TASK).eval(), []
    for steps in (3, 6):
        with CountSynchronisations() as mode:
            crafted(short(name, steps=steps, queries=4 * steps), batch=batch, model=model, leave=name != "autoattack")
        waited.append(mode.seen)
    assert waited[0] == waited[1]
