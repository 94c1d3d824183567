"""Random numbers for a batch in which every sample has a stream of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

__all__ = ["Draws"]


class Draws:
    """Draws for the samples of a batch: what a sample gets depends on its key, the seed and the purpose alone.

    So neither the order of a batch nor its size matters. Every method returns one draw of ``shape`` for each sample,
    a tensor (B, *shape) on the CPU.

    Args:
        keys: one whole number a sample, e.g. its position in the split.
        seed: of all samples.
        purpose: sets apart what is drawn for different ends, e.g. the name and severity of a corruption.
    """

    def __init__(self, keys: Sequence[int], *, seed: int = 0, purpose: str = "") -> None:
        self._generators = [_generator(seed, purpose, key) for key in keys]

    def __len__(self) -> int:
        return len(self._generators)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal, float32."""
        return self._stacked(lambda generator: torch.randn(shape, generator=generator))

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform in ``low .. high``, float32."""
        return self._stacked(lambda generator: torch.rand(shape, generator=generator)).mul_(high - low).add_(low)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Whole numbers ``low .. high - 1``, int64."""
        return self._stacked(lambda generator: torch.randint(low, high, shape, generator=generator))

    def poisson(self, rate: Tensor) -> Tensor:
        """Poisson counts for rates float32 (B, ...), of the same shape."""
        found = [torch.poisson(part, generator=g) for part, g in zip(rate.cpu(), self._generators, strict=True)]
        return torch.stack(found)

    def _stacked(self, draw: Callable[[Generator], Tensor]) -> Tensor:
        return torch.stack([draw(generator) for generator in self._generators])


def _generator(seed: int, purpose: str, key: int) -> Generator:
    digest = hashlib.blake2b(f"{seed}\x1f{purpose}\x1f{key}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
