"""Tensors that torch shards over ranks (FSDP2): their local part, and a local part made whole again."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

__all__ = ["local", "place_like", "reshard"]


def _as_sharded(tensor: Tensor) -> DTensor | None:
    # Importing the distributed packages costs most of a second; a sharded tensor exists only if the user did.
    module = sys.modules.get("torch.distributed.tensor")
    return tensor if module is not None and isinstance(tensor, module.DTensor) else None


def local(tensor: Tensor) -> Tensor:
    """The part of ``tensor`` that this rank holds; all of it when it is not sharded."""
    sharded = _as_sharded(tensor)
    return tensor if sharded is None else sharded.to_local()


def place_like(part: Tensor, live: Tensor) -> Tensor:
    """A tensor sharded like ``live`` whose local part is ``part``."""
    sharded = _as_sharded(live)
    if sharded is None:
        return part
    return type(sharded).from_local(
        part, sharded.device_mesh, sharded.placements, shape=sharded.shape, stride=sharded.stride()
    )


def reshard(model: nn.Module) -> None:
    """Give back gathered parameters: after a forward without a backward the root of an FSDP2 model still holds them."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is None or not isinstance(model, fsdp.FSDPModule):
        return
    for module in model.modules():
        if isinstance(module, fsdp.FSDPModule):
            module.reshard()
