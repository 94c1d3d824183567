"""What the task factories share: the arguments a task file must give, and defaults for image batches."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from torch import Tensor

from holdfast.core.contracts import Batch
from holdfast.core.errors import InputError
from holdfast.core.space import InputSpace, Leaf
from holdfast.data.preprocess import NV12, IntegerBilinear, Pipeline, PointSample, Resize, RoundUint8, Scale

__all__ = ["by_column", "camera_pipelines", "image_pipelines", "image_space", "require", "rgb_frame"]


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


def image_pipelines(image: str) -> dict[str, Pipeline]:
    """Sensor images used as they are: grey levels to 0..1."""
    return {"train": Pipeline(leaf=image, steps=(Scale(),))}


def camera_pipelines(size: tuple[int, int], *, image: str = "image") -> dict[str, Pipeline]:
    """Ways from an RGB camera frame to an input of ``size`` (height, width) in 0..1.

    ``train`` resizes with antialiasing; ``vehicle`` differs from it in colour (NV12), resizing (integer bilinear,
    not antialiased) and rounding; ``nearest`` is the crudest resize. Others are there to mix or to hold out:
    ``aa_bicubic`` and ``area`` hold nothing of the vehicle; ``point_sampled`` and ``raw_bicubic`` are of its family
    (4:2:0 colour, no antialiasing) but share neither its matrix and range nor its kernel.

    NV12 cannot hold a frame of odd height or width.
    """
    train = Pipeline(leaf=image, steps=(Resize(size=size), Scale()))
    vehicle = Pipeline(leaf=image, steps=(NV12(), IntegerBilinear(size=size), RoundUint8(), Scale()))
    relative = vehicle.swap("colour", NV12(matrix="bt709", range="full"))
    return {
        "train": train,
        "vehicle": vehicle,
        "nearest": train.swap("resize", Resize(size=size, kernel="nearest_exact", antialias=False)),
        "aa_bicubic": train.swap("resize", Resize(size=size, kernel="bicubic")),
        "area": train.swap("resize", Resize(size=size, kernel="area")),
        "point_sampled": relative.swap("resize", PointSample(size=size)),
        "raw_bicubic": relative.swap("resize", Resize(size=size, kernel="bicubic", antialias=False)),
    }


def by_column(name: str | None) -> Callable[[Batch], Sequence[Hashable]] | None:
    """Groups read from a column of the batch, or no groups."""
    return None if name is None else lambda batch: [*batch[name].tolist()]


def rgb_frame(images: Tensor, index: int) -> np.ndarray:
    """One of the sensor images uint8 (B, 1 or 3, H, W) as uint8 (H, W, 3)."""
    frame = images[index]
    return frame.expand(3, *frame.shape[1:]).permute(1, 2, 0).contiguous().numpy()
