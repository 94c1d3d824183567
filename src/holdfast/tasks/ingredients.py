"""What the task factories share: the arguments a task file must give, and defaults for image batches."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np
from torch import Tensor

from holdfast.core.contracts import Batch, Pipeline
from holdfast.core.errors import InputError
from holdfast.core.space import InputSpace, Leaf
from holdfast.data import preprocess

__all__ = ["by_column", "image_pipelines", "image_space", "require", "rgb_frame"]


def require(task: str, **given: object) -> None:
    """Refuse to build a task without the arguments that only a task file can give.

    Raises:
        InputError: naming every argument that is None.
    """
    if missing := [name for name, value in given.items() if value is None]:
        raise InputError(
            f"needs {' and '.join(missing)}",
            where=f"task {task!r}",
            fix=f"write a task file that returns {task}({', '.join(f'{name}=...' for name in given)}) "
            "and give it as `task: file.py:name`",
        )


def image_space(image: str) -> InputSpace:
    """One leaf in 0..1, counted in grey levels of an 8-bit camera."""
    return InputSpace({image: Leaf()})


def image_pipelines(image: str) -> Mapping[str, Pipeline]:
    """Sensor images used as they are: grey levels to 0..1."""
    return {"train": preprocess.Pipeline(leaf=image, steps=(preprocess.Scale(),))}


def by_column(name: str | None) -> Callable[[Batch], Sequence[Hashable]] | None:
    """Groups read from a column of the batch, or no groups."""
    return None if name is None else lambda batch: [*batch[name].tolist()]


def rgb_frame(images: Tensor, index: int) -> np.ndarray:
    """One of the sensor images uint8 (B, 1 or 3, H, W) as uint8 (H, W, 3)."""
    frame = images[index]
    return frame.expand(3, *frame.shape[1:]).permute(1, 2, 0).contiguous().numpy()
