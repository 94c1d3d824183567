"""What stands around a model in training: data-parallel wrappers, compiled modules, sharded weights."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["is_sharded", "rank", "unwrap"]


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside DistributedDataParallel or ``torch.compile``."""
    while isinstance(model, nn.parallel.DistributedDataParallel):
        model = model.module
    inner = model._modules.get("_orig_mod")  # an attribute that is not there takes long to miss
    return model if inner is None else inner


def is_sharded(model: nn.Module) -> bool:
    """Whether weights are distributed over processes, as under FSDP2."""
    return any(hasattr(p, "device_mesh") for p in model.parameters())


def rank() -> int:
    """Number of this process, 0 without data-parallel training."""
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_rank() if ready else 0
