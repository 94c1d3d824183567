"""The unlabelled stream of holdfast's loop: any batch by its number, so that resuming costs nothing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import overload

import torch

from holdfast.core.contracts import Batch
from holdfast.core.errors import InputError
from holdfast.data.table import Table
from holdfast.train.draws import generator

__all__ = ["Shuffled"]


class Shuffled(Sequence[Batch]):
    """Batches of a table in a new order each epoch, without end.

    Args:
        table: the samples.
        batch_size: samples a batch; what does not fill one is left out of an epoch.
        seed: of the order.
        rank: this process of data-parallel training: it takes every ``world``-th batch.
        world: number of processes.

    Raises:
        InputError: fewer samples than one batch.
    """

    def __init__(self, table: Table, batch_size: int, *, seed: int, rank: int = 0, world: int = 1) -> None:
        self.table, self.batch_size, self.seed, self.rank, self.world = table, batch_size, seed, rank, world
        self._per_epoch = len(table) // batch_size
        if self._per_epoch == 0:
            raise InputError(f"{len(table)} unlabelled samples do not fill one batch of {batch_size}",
                             where="unlabelled stream", fix="lower training.batch_size")  # fmt: skip

    def __len__(self) -> int:
        return sys.maxsize

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Batch]: ...
    def __getitem__(self, index: int | slice) -> Batch:
        """Batch ``index`` of this process."""
        if isinstance(index, slice):
            raise InputError("a slice of an endless stream", where="unlabelled stream", fix="ask batch by batch")
        epoch, position = divmod(index * self.world + self.rank, self._per_epoch)
        order = torch.randperm(len(self.table), generator=generator("unlabelled", self.seed, epoch))
        return self.table.batch(order[position * self.batch_size : (position + 1) * self.batch_size])
