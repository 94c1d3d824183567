"""Calibration and detection measures against brute-force twins, against torchmetrics where it is, and against truth."""

from __future__ import annotations

import math
from typing import Any

import calibration_twins as twins
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy

from holdfast.core.errors import InputError
from holdfast.tasks.calibration import (
    adaptive_edges,
    brier_terms,
    confidence,
    debiased_ece_terms,
    ece_terms,
    equal_edges,
    fit_temperature,
    squared_error_terms,
)


def drawn(seed: int, n: int = 200, classes: int = 4, scale: float = 2.0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(n, classes, generator=g, dtype=torch.float64)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=g)[:, 0]


@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(2, 6), st.integers(1, 20))
def test_equal_the_twins(seed: int, n: int, classes: int, bins: int) -> None:
    logits, labels = drawn(seed, n, classes)
    largest, right = confidence(logits, labels)
    rows, truth = logits.tolist(), labels.tolist()
    # Adaptive edges are confidences themselves, and two ways to a softmax differ in the last bit.
    for edges in (equal_edges(bins), adaptive_edges(largest, bins) + 1e-12):
        assert float(ece_terms(largest, right, edges).mean()) == pytest.approx(
            twins.ece(rows, truth, edges.tolist()), abs=1e-9
        )
    assert float(brier_terms(logits, labels).mean()) == pytest.approx(twins.brier(rows, truth), abs=1e-9)


@pytest.mark.filterwarnings("ignore")  # what the oracle says at its import
def test_torchmetrics_agrees() -> None:
    torchmetrics: Any = pytest.importorskip("torchmetrics", reason="the oracle torchmetrics is not installed")
    from torchmetrics.functional.classification.calibration_error import _ce_compute

    for seed in range(5):
        logits, labels = drawn(seed, 1000)
        largest, right = confidence(logits, labels)
        theirs = torchmetrics.functional.classification.multiclass_calibration_error(
            logits.softmax(1), labels, num_classes=4, n_bins=15, norm="l1"
        )
        assert float(ece_terms(largest, right, equal_edges(15)).mean()) == pytest.approx(float(theirs), abs=1e-6)
        same = _ce_compute(largest, right, equal_edges(15), norm="l1")
        assert float(ece_terms(largest, right, equal_edges(15)).mean()) == pytest.approx(float(same), abs=1e-6)
        root = _ce_compute(largest, right, equal_edges(15), norm="l2", debias=True)
        ours = squared_error_terms(largest, right, equal_edges(15)).mean()
        assert max(float(ours), 0.0) ** 0.5 == pytest.approx(float(root), abs=1e-6)


def test_adaptive_bins_hold_equally_many_samples() -> None:
    largest = torch.rand(150, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    edges = adaptive_edges(largest, 10)
    counts = torch.histogram(largest, edges).hist
    assert bool((counts - 15).abs().le(1).all())


def test_equal_confidences_share_a_bin() -> None:
    largest, right = torch.full((40,), 0.8), (torch.arange(40) < 30).double()
    for edges in (equal_edges(15), adaptive_edges(largest, 15)):
        assert float(ece_terms(largest, right, edges).mean()) == pytest.approx(0.05, abs=1e-6)


def test_few_samples_raise_the_error_of_a_calibrated_model_and_debiasing_lowers_it() -> None:
    plain, debiased, squared = [], [], []
    for seed in range(60):
        logits, labels = drawn(seed, 150)
        largest, right = confidence(logits, labels)
        plain.append(float(ece_terms(largest, right, equal_edges()).mean()))
        debiased.append(float(debiased_ece_terms(largest, right, equal_edges()).mean()))
        squared.append(float(squared_error_terms(largest, right, equal_edges()).mean()))
    assert sum(plain) / 60 > 0.05
    assert 0 < sum(debiased) < 0.7 * sum(plain)
    assert abs(sum(squared) / 60) < 0.1 * (sum(plain) / 60) ** 2


def test_with_many_samples_the_debiased_error_is_the_error() -> None:
    logits, labels = drawn(0, 60_000)
    largest, right = confidence(3 * logits, labels)
    plain, debiased = (f(largest, right, equal_edges()).mean() for f in (ece_terms, debiased_ece_terms))
    assert float(plain) > 0.1
    assert float(debiased) == pytest.approx(float(plain), abs=2e-3)
    gaps = squared_error_terms(largest, right, equal_edges()).mean()
    assert float(plain) ** 2 - 1e-3 < float(gaps) < 2 * float(plain) ** 2


@pytest.mark.parametrize("factor", [0.25, 1.0, 4.0])
def test_the_temperature_undoes_a_factor_on_the_logits(factor: float) -> None:
    logits, labels = drawn(1, 20_000)
    assert fit_temperature(factor * logits, labels) == pytest.approx(factor, rel=0.03)


def test_no_other_temperature_is_better() -> None:
    logits, labels = drawn(2, 300, scale=4)
    best = fit_temperature(logits, labels)
    at_best = float(cross_entropy(logits / best, labels))
    for factor in (0.9, 0.99, 1.01, 1.1):
        assert float(cross_entropy(logits / (best * factor), labels)) > at_best


def test_broken_logits_are_refused() -> None:
    with pytest.raises(InputError, match="NaN or infinite"):
        fit_temperature(torch.tensor([[math.nan, 0.0]]), torch.tensor([0]))
