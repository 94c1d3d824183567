from __future__ import annotations

import pytest
from weights_zoo import Zoo

from holdfast.weights.barrier import measure_barrier


def test_fine_tunes_of_one_base_share_a_basin(zoo: Zoo) -> None:
    exam = zoo.exam(loss=True)
    found = measure_barrier(exam.sheet(zoo.tuned[0]), exam.sheet(zoo.tuned[3]), alphas=(0.25, 0.5, 0.75))
    assert found.verdict == "none"


@pytest.mark.parametrize(("loss", "verdicts"), [(True, {"blocked"}), (False, {"raised", "blocked"})])
def test_strangers_are_told_apart(zoo: Zoo, loss: bool, verdicts: set[str]) -> None:
    exam = zoo.exam(loss=loss)
    found = measure_barrier(exam.sheet(zoo.strangers[0]), exam.sheet(zoo.strangers[1]))
    assert found.verdict in verdicts
    assert found.alpha == 0.5
    assert found.height > 3 * found.error


def test_a_network_has_no_barrier_to_itself(zoo: Zoo) -> None:
    exam = zoo.exam(loss=True)
    found = measure_barrier(exam.sheet(zoo.base), exam.sheet(zoo.base))
    assert found.height == pytest.approx(0.0, abs=1e-6)
    assert found.verdict == "none"
    assert found.ends[0] == found.ends[1]


def test_only_the_samples_asked_for_are_used(zoo: Zoo) -> None:
    exam = zoo.exam(loss=True)
    measure_barrier(exam.sheet(zoo.base), exam.sheet(zoo.tuned[0]), samples=100)
    assert exam.asked == 300


def test_the_record_is_plain_data(zoo: Zoo) -> None:
    exam = zoo.exam(loss=True)
    record = measure_barrier(exam.sheet(zoo.base), exam.sheet(zoo.tuned[0])).record()
    assert set(record) == {"height", "error", "alpha", "ends", "verdict"}
