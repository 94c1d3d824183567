from __future__ import annotations

import pytest
import torch
from toy_tasks import classification, images, model_of, step_of

from holdfast.core.contracts import Term
from holdfast.core.errors import InputError
from holdfast.methods.trivial_augment import TrivialAugment

IDENTITY = {"strength": 0.0}


def augment(batch, geometric=False, **options):
    task = classification(geometric=geometric)
    term = Term(name="clean", views=(batch,), loss=lambda outputs: task.loss(outputs[0], batch))
    return TrivialAugment(**options).rewrite([term], step_of(task, model_of(task), batch))


def test_about_one_sample_in_fourteen_stays_as_it_is():
    batch = images(n=560)
    [term] = augment(batch)
    same = sum(torch.equal(a, b) for a, b in zip(term.views[0]["image"], batch["image"], strict=True))
    assert 15 <= same <= 75  # 40 expected from the identity alone


def test_nothing_moves_where_targets_are_places():
    batch = images(n=64)
    batch["image"] = torch.full_like(batch["image"], 0.5)
    for geometric in (True, False):
        [term] = augment(batch, geometric=geometric)
        spread = term.views[0]["image"].flatten(1).std(1).max()
        assert (spread < 1e-5) == geometric


def test_operations_kin_to_corruptions_may_be_left_out():
    batch = images(n=64)
    batch["image"] = torch.full_like(batch["image"], 0.25)
    [term] = augment(batch, geometric=True, enhancing=False)
    # Constant images: autocontrast leaves them, equalize too; brightness would change them a little.
    allowed = {0.25, 0.75} | {int(64 / w) * w / 255 for w in (16, 32, 64, 128)}
    found = {round(float(v), 4) for v in term.views[0]["image"].flatten(1)[:, 0]}
    assert all(min(abs(v - a) for a in allowed) < 1e-3 for v in found)


def test_a_clean_share_and_refusals():
    assert [(t.name, t.weight) for t in augment(images(), clean_weight=0.5)] == [
        ("clean", 0.5),
        ("clean_augmented", 0.5),
    ]
    with pytest.raises(InputError, match="use 0 to 1"):
        TrivialAugment(strength=2)
