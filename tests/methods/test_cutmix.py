from __future__ import annotations

from random import Random

import pytest
import torch
from toy_tasks import classification, driving, images, model_of, regression_with_two_inputs, step_of

from holdfast.core.contracts import TaskLoss, Term
from holdfast.core.errors import ClashError, InputError
from holdfast.methods.cutmix import CutMix, box

IDENTITY = "every box is pasted"


def term_of(task, batch):
    return Term(name="clean", views=(batch,), loss=TaskLoss(task, batch))


def test_the_box_has_its_share_of_the_area_where_it_fits():
    numbers = Random(0)
    shares = [share(100, 60, 0.84, numbers) for _ in range(300)]
    assert max(shares) == pytest.approx(0.16, abs=0.01)
    assert min(shares) > 0.16 / 4 - 0.01  # a quarter is left when the centre is in a corner
    assert share(8, 8, 1.0, numbers) == 0
    assert sum(share(9, 9, 0.0, numbers) for _ in range(50)) / 50 > 0.5


def share(height, width, lam, numbers):
    """Of the area that is in the box."""
    mask = torch.zeros(height, width)
    mask[box(height, width, lam, numbers)] = 1
    return mask.mean().item()


def test_pixels_come_from_one_of_the_two_and_the_loss_is_weighted_by_area():
    task, batch = classification(), images()
    model = model_of(task).eval()
    [term] = CutMix().rewrite([term_of(task, batch)], step_of(task, model, batch))
    x, cut = batch["image"], term.views[0]["image"]
    changed = (cut != x).any(dim=1)
    pasted = changed.any(dim=0)
    assert all(torch.equal(pasted, c) for c in changed if c.any())  # a sample may be its own partner
    order = torch.tensor([
        next(j for j in range(6) if torch.equal(cut[i][:, pasted], x[j][:, pasted])) for i in range(6)
    ])  # fmt: skip
    lam = 1 - pasted.float().mean()
    ce = torch.nn.functional.cross_entropy
    logits = model(cut)
    expected = lam * ce(logits, batch["y"]) + (1 - lam) * ce(logits, batch["y"][order])
    torch.testing.assert_close(term.loss((logits,)).mean(), expected)


def test_refusals():
    lanes = classification(geometric=True)
    with pytest.raises(ClashError, match="places in the image"):
        CutMix().rewrite([term_of(lanes, images())], step_of(lanes, model_of(lanes), images()))
    task = regression_with_two_inputs()
    with pytest.raises(InputError, match="images"):
        CutMix().rewrite([term_of(task, driving())], step_of(task, model_of(task), driving()))
    with pytest.raises(InputError, match="not positive"):
        CutMix(alpha=0)
