from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.weights.halves import HALVES, MeanOfHalves


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 70), length=st.sampled_from([1, 7, 4096, 5000, 8192, 40_000, 70_001]),
       dtype=st.sampled_from(HALVES), seed=st.integers(0, 9))  # fmt: skip
def test_it_is_the_mean_rounded_once(count, length, dtype, seed):
    draws = torch.Generator().manual_seed(seed)
    vectors = [torch.randn(length, generator=draws).mul(10).to(dtype) for _ in range(count)]
    into = torch.empty(length, dtype=dtype)
    MeanOfHalves(count)(into, vectors)
    exact = torch.stack(vectors).double().mean(0)
    off = (into.double() - exact).abs()
    # Half a unit in the last place of the half, and what a sum in fp32 may err.
    ulp = torch.finfo(dtype).eps * exact.abs().clamp(min=2 * torch.finfo(dtype).tiny)
    assert (off <= 0.5 * ulp + count * torch.finfo(torch.float32).eps * 40).all()


@pytest.mark.parametrize("dtype", HALVES)
def test_one_averager_serves_vectors_of_all_lengths_and_what_is_not_finite_shows(dtype):
    mean = MeanOfHalves(3)
    for length in (70_000, 3, 4096):
        vectors = [torch.full((length,), float(k), dtype=dtype) for k in (1, 2, 6)]
        into = torch.empty(length, dtype=dtype)
        mean(into, vectors)
        assert torch.equal(into, torch.full((length,), 3.0, dtype=dtype))
        vectors[1][-1] = torch.inf
        mean(into, vectors)
        assert into[-1].isinf()
        assert into[:-1].isfinite().all()
