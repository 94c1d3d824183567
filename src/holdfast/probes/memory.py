"""Whether an error means that the memory did not suffice, whoever raised it."""

from __future__ import annotations

__all__ = ["out_of_memory"]

SAYINGS = (
    "out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory", "bad_alloc",
    "failed to allocate memory",
)  # fmt: skip
"""How torch's CPU and GPU allocators, C++ and ONNX Runtime put it: only some of them have a class of their own."""


def out_of_memory(error: BaseException) -> bool:
    """Whether smaller pieces may help."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or any(saying in said for saying in SAYINGS)
