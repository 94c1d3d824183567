"""The noise floor: how far a model departs from itself when only the order of its sums changes."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from holdfast.deploy.fold import agreement_db
from holdfast.deploy.nest import flatten

__all__ = ["fp64_floor_db"]


def fp64_floor_db(model: nn.Module, example: tuple[Tensor, ...]) -> float:
    """Agreement in dB of the model in fp32 with itself in fp64; infinite where it cannot run in fp64.

    Args:
        model: an eval-mode module in fp32; not changed.
        example: positional inputs.
    """
    doubled = copy.deepcopy(model).double()
    with torch.no_grad():
        single, _ = flatten(model(*example))
        try:
            double, _ = flatten(doubled(*(x.double() if x.is_floating_point() else x for x in example)))
        except RuntimeError:  # constants of a fixed dtype inside forward
            return float("inf")
    return agreement_db(double, single)
