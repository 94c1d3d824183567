"""One writer for a folder: a lock that ends with its process, however that ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from holdfast.core.errors import InputError

__all__ = ["release_lock", "take_lock"]

_held: set[int] = set()


def take_lock(folder: Path) -> int:
    """A descriptor that holds the lock of ``folder`` until it is released or the process dies.

    Raises:
        InputError: another process, which is named, holds it.
    """
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(descriptor, 32).decode(errors="replace") or "unknown"
        os.close(descriptor)
        raise InputError(
            f"another process ({owner}) writes to this run folder", where=str(folder), fix="wait, or give another --out"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    _held.add(descriptor)
    return descriptor


def release_lock(descriptor: int) -> None:
    """Give the lock up."""
    _held.discard(descriptor)
    os.close(descriptor)


def _forget() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


# A forked worker shares the descriptor and would keep its killed parent's lock.
os.register_at_fork(after_in_child=_forget)
