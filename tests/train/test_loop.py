"""The reference loop: equal to a hand-written one, resumable to the same bits, honest about divergence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from holdfast.core.config import Training
from holdfast.core.contracts import Batch, Metric, Task
from holdfast.core.errors import InputError, NonFiniteError
from holdfast.core.space import InputSpace, Leaf
from holdfast.data.table import Table
from holdfast.train.draws import generator, stream_seed
from holdfast.train.loop import TrainingRun, build_initial, learning_rate, train
from holdfast.train.objective import Objective
from holdfast.weights.ema import EMA


def build_net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))


def squared_error(outputs: Tensor, batch: Batch) -> Tensor:
    return (outputs[:, 0] - batch["y"]) ** 2


TASK = Task(
    name="toy",
    build_model=build_net,
    data=lambda split: [],
    loss=squared_error,
    metrics=(Metric(name="error", compute=squared_error, unit="1"),),
    space=InputSpace({"x": Leaf()}),
)


def make_table(n: int = 70) -> Table:
    g = torch.Generator().manual_seed(0)
    x = torch.rand(n, 4, generator=g)
    return Table({"x": x, "y": x.sum(dim=1)})


class KilledError(Exception):
    pass


def make_run(folder: Path, **changes: object) -> TrainingRun:
    settings: dict[str, object] = {
        "table": make_table(),
        "variants": {},
        "training": Training(epochs=3, batch_size=16, lr=1e-2, checkpoint_seconds=0),
        "averages": {"ema": EMA(decay=0.9)},
        "init_seed": 1,
        "order_seed": 2,
        "checkpoint": folder / "checkpoint.pt",
    }
    return TrainingRun(**{**settings, **changes})


def test_equals_a_hand_written_loop(tmp_path: Path) -> None:
    run = make_run(tmp_path, averages={})
    weights, facts = train(TASK, Objective(TASK), run)
    model, table = build_initial(TASK, 1), run.table
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=1e-2)
    step = 0
    for epoch in range(3):
        order = torch.randperm(70, generator=generator("order", 2, epoch))
        for i in range(4):
            batch = table.batch(order[16 * i : 16 * (i + 1)])
            torch.manual_seed(stream_seed("dropout", 2, step))
            optimiser.param_groups[0]["lr"] = learning_rate(run.training, step, 12)
            optimiser.zero_grad()
            squared_error(model(batch["x"]), batch).mean().backward()
            optimiser.step()
            step += 1
    assert facts["steps"] == 12
    for name, value in model.state_dict().items():
        assert torch.equal(weights["last"][name], value), name


@pytest.mark.parametrize("killed_at", [1, 5, 11])
def test_resumes_to_the_same_bits(tmp_path: Path, killed_at: int) -> None:
    whole, _ = train(TASK, Objective(TASK, seed=2), make_run(tmp_path / "whole"))
    count = 0

    def advance(steps: int, note: str) -> None:
        nonlocal count
        count += steps
        if count >= killed_at:
            raise KilledError

    with pytest.raises(KilledError):
        train(TASK, Objective(TASK, seed=2), make_run(tmp_path / "cut", advance=advance))
    resumed, _ = train(TASK, Objective(TASK, seed=2), make_run(tmp_path / "cut"))
    assert set(resumed) == {"init", "last", "ema"}
    for kind, state in whole.items():
        for name, value in state.items():
            assert torch.equal(resumed[kind][name], value), (kind, name)
    assert not (tmp_path / "cut" / "checkpoint.pt").exists()


def test_divergence_names_the_step(tmp_path: Path) -> None:
    run = make_run(tmp_path, training=Training(epochs=2, batch_size=16, optimiser="sgd", lr=1e18, schedule="constant"))
    with pytest.raises(NonFiniteError, match=r"at step \d+ of 8"):
        train(TASK, Objective(TASK), run)


def test_too_few_samples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="do not fill one batch"):
        train(TASK, Objective(TASK), make_run(tmp_path, table=make_table(8)))


def test_building_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = build_initial(TASK, 0)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first[0].weight, build_initial(TASK, 0)[0].weight)
    assert not torch.equal(first[0].weight, build_initial(TASK, 1)[0].weight)


def test_schedules_for_averages_are_those_of_the_averages() -> None:
    late = [learning_rate(Training(lr=0.1, schedule="swa"), step, 100) for step in range(100)]
    assert late[0] == pytest.approx(0.1)
    assert late[68:] == pytest.approx([0.01] * 32)  # from nine tenths of the three quarters on
    cycles = [learning_rate(Training(lr=0.1, schedule="cyclic", epochs=4), step, 100) for step in range(100)]
    assert [cycles[step] for step in (0, 25, 50, 75)] == pytest.approx([0.1] * 4)
    assert [cycles[step] for step in (24, 49, 74, 99)] == pytest.approx([0.001] * 4)


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "constant", "step"])
def test_schedules_stay_within_their_bounds(schedule: str) -> None:
    training = Training(lr=0.1, schedule=schedule)
    rates = [learning_rate(training, step, 101) for step in range(101)]
    assert max(rates) == pytest.approx(0.1)
    assert min(rates) >= 0
    ends = {"one_cycle": (0.004, 1e-5), "cosine": (0.1, 0.0), "constant": (0.1, 0.1), "step": (0.1, 0.001)}
    assert (rates[0], rates[-1]) == pytest.approx(ends[schedule])


def test_one_cycle_peaks_at_three_tenths() -> None:
    rates = [learning_rate(Training(lr=1.0, schedule="one_cycle"), step, 101) for step in range(101)]
    assert rates.index(max(rates)) == 30
