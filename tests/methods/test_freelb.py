from __future__ import annotations

import free_twins
import pytest
import torch
from toy_tasks import classification, images, model_of, sentences, text

from holdfast.core.errors import ClashError, InputError
from holdfast.methods.freelb import FreeLB
from holdfast.methods.rotation import Rotation
from holdfast.train.objective import Objective

OPTIONS = {"tap": "features.0"}
IDENTITY = {"steps": 1, "start": 0.0}


def prepared(task, batch, seed=0, **options):
    method = FreeLB(**{"tap": "embedding", **options})
    objective = Objective(task, [method], seed=seed)
    return objective, objective.prepare(model_of(task), batch)


def first_delta(objective, model, batch):
    """The random start of this step, drawn again."""
    step = objective._step(model, batch, None, {})
    method = objective.methods[0]
    return method._first(torch.zeros(6, 8, 5), batch["mask"][..., None] if method.mask else None, step)


@pytest.mark.parametrize("max_norm", [0.0, 0.15])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_equals_the_fused_loop_with_shared_dropout_masks(max_norm, dropout):
    task, batch = text(dropout), sentences()
    objective, model = prepared(task, batch, mask="mask", steps=3, step=0.2, start=0.6, max_norm=max_norm)
    twin = model_of(task).train()
    start = first_delta(objective, model, batch)
    torch.manual_seed(7)
    expected = free_twins.freelb(twin, batch, start, 3, 0.2, max_norm)
    torch.manual_seed(7)
    loss = objective(model.train(), batch)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    (3.0 * loss).backward()  # a factor, as a gradient scaler has it
    for a, b in zip(model.model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, 3.0 * b.grad, rtol=1e-4, atol=1e-6)


def test_padding_is_not_moved_and_the_start_has_its_size():
    task, batch = text(), sentences()
    objective, model = prepared(task, batch, mask="mask", start=0.6)
    start = first_delta(objective, model, batch)
    assert (start[batch["mask"] == 0] == 0).all()
    n = batch["mask"].sum(1) * 5
    assert (start.flatten(1).abs().amax(1) <= 0.6 / n.sqrt()).all()
    # U(-1, 1) has a mean square of one third.
    assert (start.flatten(1).norm(dim=1) ** 2).mean().item() == pytest.approx(0.36 / 3, rel=0.35)


def test_counts_its_passes_and_skips_the_last_perturbation_gradient():
    task, batch = text(), sentences()
    objective, model = prepared(task, batch, steps=4)
    asked = []

    def forward(view, **call):
        asked.append(call["add"]["embedding"].requires_grad)
        return task.forward(model, view, **call)

    step = objective._step(model, batch, None, {})
    object.__setattr__(step, "forward", forward)
    [clean] = Objective(task).terms(model, batch)
    objective.methods[0].rewrite([clean], step)
    assert asked == [True, True, True, False]
    assert objective.passes() == (4, 4)


def test_gradients_accumulate_over_micro_batches():
    task = text()
    objective, model = prepared(task, sentences())
    for i in range(2):
        objective(model, sentences(seed=i)).backward()
    together = [p.grad.clone() for p in model.parameters()]
    objective, model = prepared(task, sentences())
    separate = []
    for i in range(2):
        model.zero_grad()
        objective(model, sentences(seed=i)).backward()
        separate.append([p.grad.clone() for p in model.parameters()])
    for total, *parts in zip(together, *separate, strict=True):
        torch.testing.assert_close(total, sum(parts))


def test_where_it_reaches_no_trained_weight_the_others_train():
    objective = Objective(classification(), [FreeLB(tap="features.0"), Rotation()])
    model = objective.prepare(model_of(objective.task), images())
    for name, p in model.named_parameters():
        p.requires_grad_("heads" in name)
    losses = [objective.backward(model, images())]
    objective.index = 0
    losses.append(objective(model, images()).detach())
    torch.testing.assert_close(*losses)


def test_half_precision_does_not_underflow():
    task, batch = text(), sentences()
    objective, model = prepared(task, batch, steps=2)
    with torch.autocast("cpu", dtype=torch.float16):
        loss = objective(model, batch)
    loss.backward()
    twin_objective, twin = prepared(task, batch, steps=2)
    twin_objective(twin, batch).backward()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0.05, atol=2e-3)


def test_refusals():
    with pytest.raises(InputError, match="no layer is named"):
        prepared(classification(), images(), tap="")
    with pytest.raises(InputError, match="no module 'emb'"):
        prepared(text(), sentences(), tap="emb")
    objective, model = prepared(classification(), images(), tap="features.0", mask="y")
    with pytest.raises(InputError, match="does not fit a tap"):
        objective(model, images())
    with pytest.raises(InputError, match="at least one step"):
        FreeLB(tap="embedding", steps=0)

    class SAM:
        """A weight perturbation by that name."""

    with pytest.raises(ClashError, match="gradients made on the way"):
        Objective(text(), [FreeLB(tap="embedding")], perturbation=SAM())
