"""What the task factories share: the arguments a task file must give, and defaults for image batches."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np
from torch import Tensor

from holdfast.core.contracts import Batch, Pipeline
from holdfast.core.errors import InputError
from holdfast.core.space import InputSpace, Leaf
from holdfast.data import preprocess

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


def image_pipelines(image: str) -> Mapping[str, Pipeline]:
    """Sensor images used as they are: grey levels to 0..1."""
    return {"train": preprocess.Pipeline(leaf=image, steps=(preprocess.Scale(),))}


def camera_pipelines(size: tuple[int, int], *, image: str = "image") -> Mapping[str, Pipeline]:
    """Ways from an RGB camera frame to an input of ``size`` (height, width) in 0..1.

    ``train`` resizes with antialiasing; ``vehicle`` differs from it in every step (NV12, integer bilinear without
    antialiasing, whole grey levels); ``nearest`` is the crudest resize. To train with: ``aa_bicubic`` and ``area``
    (antialiased as ``train``), ``point_sampled`` and ``raw_bicubic`` (not antialiased, as ``vehicle``, but with other
    kernels and another colour matrix).

    Raises:
        InputError: later, on a frame of odd height or width, which NV12 cannot hold.
    """
    train = preprocess.Pipeline(leaf=image, steps=(preprocess.Resize(size=size), preprocess.Scale()))
    vehicle = preprocess.Pipeline(
        leaf=image,
        steps=(
            preprocess.NV12(),
            preprocess.IntegerBilinear(size=size),
            preprocess.RoundUint8(),
            preprocess.Scale(),
        ),
    )
    other_camera = vehicle.swap("colour", preprocess.NV12(matrix="bt709", range="full"))
    return {
        "train": train,
        "vehicle": vehicle,
        "nearest": train.swap("resize", preprocess.Resize(size=size, kernel="nearest_exact")),
        "aa_bicubic": train.swap("resize", preprocess.Resize(size=size, kernel="bicubic")),
        "area": train.swap("resize", preprocess.Resize(size=size, kernel="area")),
        "point_sampled": other_camera.swap("resize", preprocess.PointSample(size=size)),
        "raw_bicubic": other_camera.swap("resize", preprocess.Resize(size=size, kernel="bicubic", antialias=False)),
    }


def by_column(name: str | None) -> Callable[[Batch], Sequence[Hashable]] | None:
    """Groups read from a column of the batch, or no groups."""
    return None if name is None else lambda batch: [*batch[name].tolist()]


def rgb_frame(images: Tensor, index: int) -> np.ndarray:
    """One of the sensor images uint8 (B, 1 or 3, H, W) as uint8 (H, W, 3)."""
    frame = images[index]
    return frame.expand(3, *frame.shape[1:]).permute(1, 2, 0).contiguous().numpy()
