"""Randomness that is passed, never ambient: a generator for each (seed, step, rank, purpose)."""

from __future__ import annotations

import hashlib

import torch

__all__ = ["generator", "stream_seed"]


def stream_seed(*key: int | str) -> int:
    """A 63-bit seed that depends on every part of ``key`` and on nothing else."""
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator seeded by `stream_seed`: the same key draws the same numbers, whoever asks, whenever."""
    return torch.Generator(device=device).manual_seed(stream_seed(*key))
