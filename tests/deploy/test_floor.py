from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from holdfast.deploy.floor import fp64_floor_db


def test_rounding_of_fp32_is_seen_and_nothing_is_changed() -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(64, 64).eval(), torch.rand(8, 64)
    assert 110 < fp64_floor_db(model, (x,)) < 180
    assert model.weight.dtype is torch.float32


class _Cancelling(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x + 1e5) - 1e5


class _SinglePrecision(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x @ torch.eye(3, dtype=torch.float32)


def test_an_ill_conditioned_model_has_a_low_floor() -> None:
    assert fp64_floor_db(_Cancelling(), (torch.rand(100),)) < 60


def test_a_model_that_cannot_run_in_fp64_has_none() -> None:
    assert fp64_floor_db(_SinglePrecision(), (torch.rand(2, 3),)) == math.inf
