"""Work on a batch in pieces, smaller ones where the memory does not suffice."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch.utils._pytree import tree_map

from holdfast.core.contracts import Batch
from holdfast.core.space import first_tensor
from holdfast.probes.memory import out_of_memory

__all__ = ["batch_size", "by_pieces"]

T = TypeVar("T")


def batch_size(batch: Batch) -> int:
    """Number of samples of a batch."""
    return len(first_tensor(batch))


def by_pieces(
    batch: Batch, size: int, work: Callable[[int, Batch], T], *, halved: Callable[[int], None] = lambda size: None
) -> list[T]:
    """``work(first sample, piece)`` on at most ``size`` samples at once, in order.

    Args:
        batch: nest of tensors with a common first dimension.
        size: most samples of a piece; halved, and the piece tried again, where the memory does not suffice.
        work: given the position of the piece's first sample, and the piece.
        halved: told the new size whenever that happened.
    """
    found, start, n = list[T](), 0, batch_size(batch)
    while start < n:
        try:
            found.append(work(start, tree_map(lambda t, a=start, b=start + size: t[a:b], batch)))
        except Exception as error:  # allocators have no common error
            if not out_of_memory(error) or size == 1:
                raise
            size = max(1, min(size, n) // 2)
            halved(size)
        else:
            start += size
    return found
