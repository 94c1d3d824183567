from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import LambdaLR

from holdfast.core.errors import InputError
from holdfast.weights.schedule import CyclicSchedule, SWASchedule


def test_the_swa_schedule_is_the_published_one() -> None:
    schedule = SWASchedule(start_step=1000, final=0.2)
    assert [schedule(step) for step in (0, 500, 901, 1000, 5000)] == [1.0, 1.0, 0.2, 0.2, 0.2]
    assert schedule(700) == pytest.approx(0.6)


@given(st.integers(1, 500), st.floats(0.01, 1.0))
def test_the_swa_schedule_never_rises(start: int, final: float) -> None:
    factors = [SWASchedule(start_step=start, final=final)(step) for step in range(2 * start)]
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(factors))


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_every_cycle_falls_from_one_to_final(shape: str) -> None:
    schedule = CyclicSchedule(cycle_steps=10, final=0.01, shape=shape, start_step=3)
    factors = [schedule(step) for step in range(23)]
    assert factors[:4] == [1.0] * 4
    assert factors[12] == factors[22] == pytest.approx(0.01)
    assert factors[13] == 1.0
    assert factors[3:13] == sorted(factors[3:13], reverse=True)
    assert factors[3:13] == factors[13:23]


def test_a_linear_cycle_is_linear() -> None:
    schedule = CyclicSchedule(cycle_steps=5, final=0.2, shape="linear")
    assert [schedule(step) for step in range(5)] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])


def test_it_drives_a_torch_scheduler() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([parameter], lr=0.5)
    scheduler = LambdaLR(optimiser, SWASchedule(start_step=2, final=0.1))
    for _ in range(4):
        optimiser.step()
        scheduler.step()
    assert scheduler.get_last_lr() == [pytest.approx(0.05)]


def test_wrong_settings_are_refused() -> None:
    for wrong in (
        lambda: SWASchedule(start_step=0),
        lambda: SWASchedule(final=0.0),
        lambda: CyclicSchedule(cycle_steps=0),
        lambda: CyclicSchedule(shape="square"),
    ):
        with pytest.raises(InputError):
            wrong()
