"""What every corruption promises, kept in one place: range, shape, dtype, samples that know nothing of each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from holdfast.core.contracts import Corruption, OnBytes
from holdfast.core.errors import InputError
from holdfast.data.corruptions.draws import Draws

__all__ = ["corrupted"]

CHUNK_VALUES = 1 << 18
"""Values that are worked on at a time, so that they stay in the cache."""
LEVEL_SLACK = 1e-3


def corrupted(
    image: Tensor, corruption: Corruption, severity: int, *, keys: Sequence[int] | None = None, seed: int = 0
) -> Tensor:
    """Corrupt a batch of images.

    A float image stays float. A uint8 image is cut off to whole grey levels, as the published code does when it
    stores its results. Severity 0 is the identity.

    Args:
        image: uint8 or float32 (B, C, H, W), grey levels 0..255; never written to.
        corruption: a plug-in of ``data/corruptions/``.
        severity: 0, or one of the corruption's severities (1 to 5 unless it says otherwise).
        keys: one whole number a sample, on which its draws depend. Default: its position in the batch.
        seed: of all draws.

    Returns:
        The corrupted images, of the same dtype and range, on the same device.

    Raises:
        InputError: not such a batch, an unknown severity, or keys that do not fit.
    """
    keys = list(range(len(image))) if keys is None else list(keys)
    _check(image, corruption, severity, len(keys))
    if severity == 0 or not len(image):
        return image.clone()
    if image.dtype == torch.uint8 and isinstance(corruption, OnBytes):
        return corruption.corrupt_bytes(image, severity)
    size = max(1, CHUNK_VALUES // max(1, image[0].numel()))
    parts = [
        _corrupted(image[start : start + size], corruption, severity, keys[start : start + size], seed)
        for start in range(0, len(image), size)
    ]
    return torch.cat(parts)


def _corrupted(image: Tensor, corruption: Corruption, severity: int, keys: Sequence[int], seed: int) -> Tensor:
    draws = Draws(keys, seed=seed, purpose=f"{type(corruption).__name__} {severity}")
    # A copy even of floats, because a corruption may give back what it was given.
    found = corruption.corrupt(image.to(torch.float32, copy=True), severity, draws).clamp_(0, 255)
    # A value that is whole but for rounding errors must not lose a level.
    return found.add_(LEVEL_SLACK).to(torch.uint8) if image.dtype == torch.uint8 else found.to(image.dtype)


def _check(image: Tensor, corruption: Corruption, severity: int, keys: int) -> None:
    where = f"corruption {type(corruption).__name__}"
    if image.ndim != 4 or not (image.dtype == torch.uint8 or image.is_floating_point()):
        raise InputError(f"{image.dtype} {tuple(image.shape)} is no batch of images", where=where,
                         fix="give uint8 or float (B, C, H, W) in grey levels 0..255")  # fmt: skip
    if severity != 0 and severity not in corruption.severities:
        raise InputError(f"no severity {severity}", where=where, fix=f"0 or one of {list(corruption.severities)}")
    if keys != len(image):
        raise InputError(f"{keys} keys for {len(image)} images", where=where, fix="give one key a sample")
    if image.is_floating_point() and len(image) and not bool(((image >= -0.5) & (image <= 255.5)).all()):
        raise InputError(f"values {float(image.min()):.4g} .. {float(image.max()):.4g}", where=where,
                         fix="give grey levels 0..255")  # fmt: skip
