"""Datasets held in memory: named columns, and copies of a dataset under seeded changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from holdfast.core.errors import InputError

__all__ = ["Change", "Copies", "Samples"]

Sample = dict[str, Tensor]


class Change(Protocol):
    """A random change of one sample; everything random comes from ``generator``."""

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        """The changed sample; the given one is not mutated."""


class _Indexed(Protocol):
    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


class Samples:
    """A dataset of named columns, each a tensor whose first dimension is the sample.

    Example:
        >>> data = Samples(image=torch.zeros(4, 3, 8, 8, dtype=torch.uint8), label=torch.arange(4))
        >>> len(data), int(data[2]["label"])
        (4, 2)

    Raises:
        InputError: no columns, or columns of different lengths.
    """

    def __init__(self, **columns: Any) -> None:
        self.columns: Mapping[str, Tensor] = {name: torch.as_tensor(column) for name, column in columns.items()}
        sizes = {name: len(column) for name, column in self.columns.items()}
        if len(set(sizes.values())) != 1:
            raise InputError(f"columns of lengths {sizes}", where="samples", fix="give every sample every column")

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index: int) -> Sample:
        return {name: column[index] for name, column in self.columns.items()}

    def take(self, indices: Sequence[int] | slice) -> Samples:
        """The samples at ``indices`` as a new dataset."""
        return Samples(**{name: column[indices] for name, column in self.columns.items()})


@dataclass(frozen=True, kw_only=True)
class Copies:
    """``count`` copies of a dataset: copy 0 as it is, the others changed; sample ``i`` is the same on every read.

    One epoch over K copies replaces K epochs with fresh augmentation, so that a training split can be prepared
    once and every recipe and seed sees the same samples.

    Args:
        base: the dataset.
        change: ``(sample, generator) -> sample``; the generator is keyed by ``seed`` and the sample's position.
        count: copies, the unchanged one included. Recommended: 8 to 16 for a few hundred samples.
        seed: of all draws.
    """

    base: _Indexed
    change: Change
    count: int = 8
    seed: int = 0

    def __len__(self) -> int:
        return self.count * len(self.base)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        copy, position = divmod(index, len(self.base))
        sample = self.base[position]
        if copy == 0:
            return sample
        # A Mersenne generator spreads nearby seeds badly; a large odd factor moves them apart.
        key = (self.seed * 1_000_003 + index) * 2_654_435_761 % 2**63
        return self.change(sample, torch.Generator().manual_seed(key))
