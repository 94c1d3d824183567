"""Recorded tensors from files: npy, npz and pictures, one pair or many."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from holdfast.core.errors import InputError

__all__ = ["read_array", "read_pairs"]

SUFFIXES = (".npy", ".npz", ".png", ".jpg", ".jpeg", ".bmp")


def read_pairs(training: Path, vehicle: Path | None) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Pairs of arrays by name: of two files, of two folders, or of a folder with ``training`` and ``vehicle`` in it.

    Arrays of a npz file are paired by key, files of folders by name without suffix, and the frames of a batch
    (N, ...) of four dimensions one by one.

    Raises:
        InputError: a path that does not exist, or nothing that pairs.
    """
    if vehicle is None:
        if not (training / "training").is_dir() or not (training / "vehicle").is_dir():
            raise InputError(
                "needs a second path", where=str(training), fix="or a folder that holds folders training and vehicle"
            )
        training, vehicle = training / "training", training / "vehicle"
    if training.is_dir() != vehicle.is_dir():
        raise InputError("one is a folder and the other a file", where=f"{training} and {vehicle}")
    pairs = list(_of_folders(training, vehicle) if training.is_dir() else _of_files(training, vehicle))
    if not pairs:
        raise InputError("nothing in them pairs by name", where=f"{training} and {vehicle}")
    return [single for pair in pairs for single in _frames(*pair)]


def read_array(path: Path) -> np.ndarray:
    """The only array of a file.

    Raises:
        InputError: no such file, an unknown format, or a npz file with several arrays.
    """
    arrays = _read(path)
    if len(arrays) != 1:
        raise InputError(f"holds {len(arrays)} arrays: {', '.join(arrays)}", where=str(path), fix="keep one")
    return next(iter(arrays.values()))


def _of_folders(training: Path, vehicle: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    others = {path.stem: path for path in vehicle.iterdir() if path.suffix.lower() in SUFFIXES}
    for path in sorted(training.iterdir()):
        if path.suffix.lower() in SUFFIXES and path.stem in others:
            for name, a, b in _of_files(path, others[path.stem]):
                yield f"{path.stem} {name}".strip(), a, b


def _of_files(training: Path, vehicle: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    sides = _read(training), _read(vehicle)
    if len(sides[0]) == len(sides[1]) == 1:
        a, b = (next(iter(side.values())) for side in sides)
        yield "", a, b
        return
    for key in sides[0]:
        if key in sides[1]:
            yield key, sides[0][key], sides[1][key]


def _frames(name: str, a: np.ndarray, b: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    if a.ndim == 4 and b.ndim == 4 and len(a) == len(b) > 1:
        for index, (one, other) in enumerate(zip(a, b, strict=True)):
            yield f"{name} [{index}]".strip(), one, other
    else:
        yield name, a, b


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise InputError("no such file", where=str(path))
    try:
        return _decoded(path)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"cannot be read: {' '.join(str(error).split())}", where=str(path)) from None


def _decoded(path: Path) -> dict[str, np.ndarray]:
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return {"": np.load(path, allow_pickle=False)}
    if suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    if suffix in SUFFIXES:
        from PIL import Image

        with Image.open(path) as picture:
            return {"": np.asarray(picture if picture.mode in ("L", "RGB", "I;16") else picture.convert("RGB"))}
    raise InputError(f"suffix {suffix!r} is not known", where=str(path), fix=f"one of {', '.join(SUFFIXES)}")
