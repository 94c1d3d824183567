"""Every method that is found, trained as people train: compiled, in half precision, channels last, accumulating."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from found_methods import ALL, objective_of
from toy_tasks import images, model_of

from holdfast.core.errors import ClashError

COMPILED = ("adversarial", "rotation")
"""Attacked views, and hooks inside the compiled module. The rest is slow."""


COARSE = {"rst": 0.2, "uat": 0.5, "vat": 0.6}
"""They ascend on a small difference between outputs, of which bf16 leaves little; their cards say so."""


def started(name):
    objective = objective_of(name)
    model = objective.prepare(model_of(objective.task), images())
    return objective, model


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def one_step(name, dtype=None, layout=torch.contiguous_format, factor=1.0):
    """Loss and gradients of a step; with a factor, of the scaled loss, scaled back."""
    objective, model = started(name)
    model = model.to(memory_format=layout)
    batch = images()
    batch["image"] = batch["image"].contiguous(memory_format=layout)
    with torch.autocast("cpu", dtype=dtype) if dtype else nullcontext():
        loss = objective(model, batch)
    (loss * factor).backward()
    return loss.detach(), {k: g / factor for k, g in gradients(model).items()}


def distance(found, expected):
    """Of all gradients together, relative."""
    assert found.keys() == expected.keys()
    gap = sum(float((found[k] - expected[k]).square().sum()) for k in found)
    return (gap / sum(float(g.square().sum()) for g in expected.values())) ** 0.5


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_autocast_gives_nearly_the_gradients_of_float32(name, dtype):
    factor = 2.0**10 if dtype == torch.float16 else 1.0
    (loss, found), (expected_loss, expected) = one_step(name, dtype, factor=factor), one_step(name)
    assert loss == pytest.approx(float(expected_loss), rel=0.05)
    assert distance(found, expected) < (COARSE.get(name, 0.1) if dtype == torch.bfloat16 else 0.1)


@pytest.mark.parametrize("name", ALL)
def test_a_gradient_scaler_trains(name):
    objective, model = started(name)
    scaler, optimiser = torch.amp.GradScaler("cpu", init_scale=2.0**10), torch.optim.SGD(model.parameters(), lr=0.05)
    before = {k: v.clone() for k, v in model.named_parameters()}
    for i in range(2):
        with torch.autocast("cpu", dtype=torch.float16):
            loss = objective(model, images(seed=i))
        scaler.scale(loss).backward()
        scaler.unscale_(optimiser)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimiser)
        scaler.update()
        optimiser.zero_grad()
    assert scaler.get_scale() == 2.0**10  # no step was skipped
    assert all(not torch.equal(p, before[k]) for k, p in model.named_parameters() if p.ndim > 1)


@pytest.mark.parametrize("name", ALL)
def test_channels_last_gives_the_same(name):
    (loss, found), (expected_loss, expected) = one_step(name, layout=torch.channels_last), one_step(name)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-6)
    assert distance(found, expected) < 1e-4


@pytest.mark.parametrize("name", ALL)
def test_accumulated_micro_batches_give_the_mean_of_their_gradients(name):
    objective, model = started(name)
    apart = []
    for i in range(2):
        other, twin = started(name)
        other.index = i
        twin.load_state_dict(model.state_dict())  # with the statistics that the first micro-batch has moved
        other(twin, images(seed=i)).backward()
        apart.append(gradients(twin))
        if name == "freeat" and i == 1:
            with pytest.raises(ClashError, match="the weights did not move"):
                objective(model, images(seed=i))
            return
        (objective(model, images(seed=i)) / 2).backward()
    mean = {k: (apart[0][k] + apart[1][k]) / 2 for k in apart[0]}
    assert distance(gradients(model), mean) < 1e-5


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch looks at it itself
@pytest.mark.parametrize("name", [n if n in COMPILED else pytest.param(n, marks=pytest.mark.slow) for n in ALL])
def test_a_compiled_model_trains_to_the_same_weights(name):
    trained = []
    for compiled in (False, True):
        torch.compiler.reset()
        objective, model = started(name)
        called = torch.compile(model, backend="aot_eager") if compiled else model
        optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
        for i in range(2):
            optimiser.zero_grad()
            objective(called, images(seed=i)).backward()
            optimiser.step()
        trained.append([p.detach() for p in model.parameters()])
    torch.testing.assert_close(*trained, rtol=1e-4, atol=1e-5)
