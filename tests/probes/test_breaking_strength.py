from __future__ import annotations

import numpy as np
import pytest
import torch
from classifier_bench import CLASSES, bench_of
from torch import nn

from holdfast.core.errors import InputError
from holdfast.probes import breaking_strength
from holdfast.probes.breaking_strength import BreakingStrength


def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, CLASSES))


def truth(bench, norm="linf"):
    """Distance to the nearest boundary of a linear classifier, in grey levels."""
    batch, (weight, bias) = bench.batch("report", "train"), bench.model[1].parameters()
    logits, y = batch["image"].flatten(1) @ weight.T + bias, batch["y"]
    slopes = weight[y][:, None] - weight[None]
    lengths = slopes.abs().sum(2) if norm == "linf" else slopes.norm(dim=2)
    gaps = (logits.gather(1, y[:, None]) - logits) / lengths.clamp(min=1e-9)
    return (255 * gaps.scatter(1, y[:, None], torch.inf).amin(1)).detach().double().numpy()


def measured(bench, **options):
    [found] = BreakingStrength(**{"samples": 24, **options}).run(bench)
    return found


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_linear_classifier_breaks_at_its_distance(norm):
    bench = bench_of(linear())
    expected, largest = truth(bench, norm), 30.0 if norm == "linf" else 300.0
    assert (expected < largest).all()
    found = measured(bench, attack={"fab": {"steps": 15, "norm": norm}}, largest=largest, rounds=10)
    step = largest / 2**9
    assert (found.values >= expected - 1e-3).all()
    assert (found.values <= 1.06 * expected + step).all()
    assert found.row.condition == f"fab {norm} up to {largest:g}"


def test_failing_samples_count_zero_and_those_that_hold_are_flagged():
    bench = bench_of(linear(), wrong=(3,))
    true = np.sort(truth(bench))
    largest = float(true[12])
    found = measured(bench, largest=largest, rounds=3, attack={"pgd": {"steps": 10}})
    assert found.values[3] == 0.0
    assert (found.values == largest).sum() >= 8
    assert "held" in found.row.flags
    assert "held" not in measured(bench_of(linear()), largest=200.0, rounds=2).row.flags


def test_a_killed_bisection_goes_on_where_it_was(tmp_path, monkeypatch):
    options = {"largest": 16.0, "rounds": 6, "attack": {"pgd": {"steps": 5}}, "piece": 10}
    whole = measured(bench_of(linear()), **options)
    bench, calls = bench_of(linear()), []
    bench.scratch = tmp_path / "unfinished.npz"
    real = breaking_strength.narrowed

    def narrowed(bracket, attack):
        calls.append(bracket.rounds)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return real(bracket, attack)

    monkeypatch.setattr(breaking_strength, "narrowed", narrowed)
    with pytest.raises(KeyboardInterrupt):
        measured(bench, **options)
    assert bench.scratch.exists()
    resumed = measured(bench, **options)
    np.testing.assert_array_equal(resumed.values, whole.values)
    # Three pieces of six rounds, and one round that was begun twice.
    assert len(calls) == 3 * 6 + 1
    assert not bench.scratch.exists()


def test_refusals():
    with pytest.raises(InputError, match="at least 1"):
        BreakingStrength(rounds=0)
    with pytest.raises(InputError, match="does not say what counts as broken"):
        measured(bench_of(failed=None))
