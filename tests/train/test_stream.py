from __future__ import annotations

import itertools

import pytest
import torch
from toy_tasks import classification, images, model_of

from holdfast.attacks.pgd import PGD
from holdfast.core.errors import InputError
from holdfast.data.table import Table
from holdfast.methods.uat import UAT
from holdfast.train.objective import Objective
from holdfast.train.stream import Shuffled

TABLE = Table({"x": torch.arange(10)})


def test_each_epoch_sees_each_sample_at_most_once_in_a_new_order():
    stream = Shuffled(TABLE, 3, seed=0)
    epochs = [torch.cat([stream[i]["x"] for i in range(start, start + 3)]) for start in (0, 3)]
    assert all(len(set(epoch.tolist())) == 9 for epoch in epochs)
    assert not torch.equal(*epochs)
    assert torch.equal(stream[1000]["x"], Shuffled(TABLE, 3, seed=0)[1000]["x"])
    assert any(not torch.equal(stream[i]["x"], Shuffled(TABLE, 3, seed=1)[i]["x"]) for i in range(3))


def test_processes_share_the_batches_out():
    alone, [a, b] = Shuffled(TABLE, 2, seed=0), [Shuffled(TABLE, 2, seed=0, rank=r, world=2) for r in range(2)]
    for i in range(4):
        assert torch.equal(alone[2 * i]["x"], a[i]["x"])
        assert torch.equal(alone[2 * i + 1]["x"], b[i]["x"])


def test_too_few_samples():
    with pytest.raises(InputError, match="do not fill one batch"):
        Shuffled(TABLE, 11, seed=0)


@pytest.mark.parametrize("kind", [list, tuple, iter])
def test_the_objective_takes_lists_and_iterables_and_restarts_them(kind):
    batches = [images(seed=i) for i in (7, 8)]
    # An iterator cannot restart.
    batches = itertools.islice(batches, 2) if kind is iter else kind(batches)
    method = UAT(variant="ot", attack=PGD(steps=1))
    objective, model = Objective(classification(), [method], unlabelled=batches), model_of(classification())
    for i in range(2):
        unlabelled = {t.name: t.views[0] for t in objective.terms(model, images())}["uat_unlabelled"]
        assert torch.equal(unlabelled["image"], images(seed=(7, 8)[i])["image"])
        objective(model, images())
    if kind is iter:
        with pytest.raises(InputError, match="stream is empty"):
            objective(model, images())
    else:
        unlabelled = {t.name: t.views[0] for t in objective.terms(model, images())}["uat_unlabelled"]
        assert torch.equal(unlabelled["image"], images(seed=7)["image"])


def test_resuming_takes_the_right_batch_of_a_sequence():
    stream = [images(seed=i) for i in range(5)]
    method = UAT(variant="ot", attack=PGD(steps=1))
    objective, model = Objective(classification(), [method], unlabelled=stream), model_of(classification())
    for _ in range(3):
        objective(model, images())
    resumed = Objective(classification(), [method], unlabelled=stream)
    resumed.load_state_dict(objective.state_dict())
    terms = [{t.name: t.views[0] for t in o.terms(model, images())}["uat_unlabelled"] for o in (objective, resumed)]
    assert torch.equal(terms[0]["image"], terms[1]["image"])
    assert torch.equal(terms[0]["image"], stream[3]["image"])
