from __future__ import annotations

from dataclasses import dataclass, field

import torch
from toy_tasks import classification, images

from holdfast.core.config import Training
from holdfast.data.table import Table
from holdfast.methods.freeat import FreeAT
from holdfast.train.loop import TrainingRun, train
from holdfast.train.objective import Objective


@dataclass(frozen=True, kw_only=True)
class Recording:
    """Replays every batch and remembers the labels it saw."""

    replays: int = 3
    seen: list = field(default_factory=list)
    clashes = {}  # noqa: RUF012 - a class variable of the contract

    def rewrite(self, terms, step):
        self.seen.append(tuple(step.batch["number"].tolist()))
        return terms

    def passes(self):
        return 0.0, 0.0


def run_of(folder, **changes):
    table = {k: v for k, v in images(n=24).items() if k != "variants"}
    settings = {
        "table": Table({**table, "number": torch.arange(24)}), "variants": {}, "averages": {},
        "training": Training(epochs=3, batch_size=4, lr=1e-3), "init_seed": 0, "order_seed": 0,
        "checkpoint": folder / "checkpoint.pt",
    }  # fmt: skip
    return TrainingRun(**{**settings, **changes})


def test_the_loop_replays_batches_in_the_same_number_of_steps(tmp_path):
    method = Recording()
    _, facts = train(classification(), Objective(classification(), [method]), run_of(tmp_path))
    assert facts["steps"] == 18 == len(method.seen)
    fresh = method.seen[::3]
    assert method.seen == [batch for batch in fresh for _ in range(3)]
    assert len(set(fresh)) == 6  # one epoch of distinct batches in the time of three
    assert sorted(i for batch in fresh for i in batch) == list(range(24))


def test_freeat_trains_in_the_loop_and_resumes_to_the_same_bits(tmp_path):
    class KilledError(Exception):
        pass

    def kill(steps, note, count=[0]):  # noqa: B006 - the counter is meant to be shared
        count[0] += steps
        if count[0] == 7:
            raise KilledError

    make = lambda: Objective(classification(), [FreeAT(eps=8, replays=2)])  # noqa: E731 - a fresh one each time
    whole, _ = train(classification(), make(), run_of(tmp_path / "a"))
    settings = {"training": Training(epochs=3, batch_size=4, lr=1e-3, checkpoint_seconds=0)}
    try:
        train(classification(), make(), run_of(tmp_path / "b", advance=kill, **settings))
    except KilledError:
        resumed, _ = train(classification(), make(), run_of(tmp_path / "b", **settings))
    assert all(torch.equal(whole["last"][k], resumed["last"][k]) for k in whole["last"])
