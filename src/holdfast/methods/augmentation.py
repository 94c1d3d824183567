"""What augmentations share: which operations a task allows, and leaves brought to 0..1 and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Generator, Tensor

from holdfast.core.contracts import Batch, Step
from holdfast.core.errors import InputError
from holdfast.core.space import Leaf, get_leaf, with_leaf
from holdfast.methods.image_ops import ENHANCING, GEOMETRIC, PHOTOMETRIC, Op
from holdfast.methods.rewriting import only_leaf

__all__ = ["allowed_ops", "augmented", "integers", "signs"]


def allowed_ops(step: Step, *, enhancing: bool) -> Mapping[str, Op]:
    """The operations that keep the task's targets true: nothing moves pixels where targets are places in the image."""
    moving = {} if step.task.geometric else GEOMETRIC
    return {**PHOTOMETRIC, **(ENHANCING if enhancing else {}), **moving}


def augmented(view: Batch, step: Step, leaf: str | None, change: Callable[[Tensor], Tensor], *, who: str) -> Batch:
    """The view with its image, brought to 0..1, changed, and brought back.

    Raises:
        InputError: several leaves and none named; a leaf that is no image or has no range.
    """
    path, declared = only_leaf(step.task.space, leaf, who=who)
    image = get_leaf(view, path)
    if image.ndim != 4:
        raise InputError(f"a leaf of shape {tuple(image.shape)} is no image", where=who,
                         fix="name an image (B, C, H, W) in `leaf`")  # fmt: skip
    low, width = _range(declared, image)
    with torch.no_grad():
        changed = change(((image - low) / width).clamp(0, 1))
    return with_leaf(view, path, declared.clip(changed * width + low))


def _range(leaf: Leaf, image: Tensor) -> tuple[float | Tensor, float | Tensor]:
    low = leaf.stored(leaf.low, image)
    return low, leaf.stored(leaf.high, image) - low


def integers(n: int, below: int, draw: Generator) -> Tensor:
    """Draws from 0 .. below - 1, int64 (n,), on the CPU, where operations are chosen."""
    return torch.randint(below, (n,), generator=draw, device=draw.device).cpu()


def signs(n: int, draw: Generator) -> Tensor:
    """Draws from -1.0 and 1.0, (n,), on the generator's device."""
    return torch.randint(2, (n,), generator=draw, device=draw.device) * 2.0 - 1.0
