"""Readers of data on disk (IDX, images, image folders, npz, CSV), each refusing what it is not."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import math
import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from holdfast.core.errors import InputError

__all__ = [
    "data_root",
    "images_in",
    "read_classes",
    "read_idx",
    "read_image",
    "read_images",
    "read_jpegs",
    "read_npz",
    "read_table",
]

_IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".tif", ".tiff"}
_VARIABLE = "HOLDFAST_DATA"


def data_root(*parts: str) -> Path:
    """The folder named by the environment variable ``HOLDFAST_DATA``, or a path inside it.

    Raises:
        InputError: when the variable is unset or what it leads to does not exist.
    """
    value = os.environ.get(_VARIABLE, "")
    if not value:
        raise InputError(
            "the environment variable is not set",
            where=_VARIABLE,
            fix=f"export {_VARIABLE}=/folder/with/the/data",
        )
    path = Path(value).expanduser().joinpath(*parts)
    if not path.exists():
        raise InputError(f"{path} does not exist", where=_VARIABLE, fix=f"point {_VARIABLE} at the folder above it")
    return path


def read_idx(path: Path) -> np.ndarray:
    """The array of an IDX file (the MNIST format), gzipped or not: magic ``0 0 dtype ndim``, sizes, big-endian data.

    Raises:
        InputError: no such file, not IDX, broken gzip, or fewer or more bytes than the header announces.
    """
    raw = _bytes(path)
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (EOFError, OSError, zlib.error) as error:
            raise InputError(f"broken gzip: {error}", where=str(path), fix="fetch the file again") from None
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in _IDX_DTYPES:
        raise InputError("not an IDX file", where=str(path), fix="expected the magic bytes 0 0 dtype ndim")
    dtype, ndim = np.dtype(_IDX_DTYPES[raw[2]]), raw[3]
    start = 4 + 4 * ndim
    shape = tuple(int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(ndim))
    expected = start + math.prod(shape) * dtype.itemsize
    if len(raw) != expected:
        raise InputError(
            f"{len(raw)} bytes where the header {shape} needs {expected}", where=str(path), fix="fetch the file again"
        )
    return np.frombuffer(raw, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def read_image(source: Path | bytes, mode: str = "RGB", *, where: str = "") -> np.ndarray:
    """One image as uint8, (H, W, 3) for ``mode="RGB"`` and (H, W) for ``"L"``.

    Raises:
        InputError: no such file, not an image, or an image cut short.
    """
    raw, where = (source, where or "image") if isinstance(source, bytes) else (_bytes(source), str(source))
    try:
        with Image.open(io.BytesIO(raw)) as image:
            return np.asarray(image.convert(mode))
    except UnidentifiedImageError:
        raise InputError("not an image", where=where) from None
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"broken image: {error}", where=where, fix="fetch the file again") from None


def read_images(sources: Sequence[Path | bytes], mode: str = "RGB", *, where: str = "") -> np.ndarray:
    """Images of one size as uint8 (N, C, H, W).

    Raises:
        InputError: an empty list, a broken image (see `read_image`), or an image of another size than the first.
    """
    if not sources:
        raise InputError("no images to read", where=where or "images")
    images: list[np.ndarray] = []
    for index, source in enumerate(sources):
        place = str(source) if isinstance(source, Path) else f"{where}, image {index}"
        images.append(read_image(source, mode, where=place))
        if images[-1].shape != images[0].shape:
            size, first = images[-1].shape[:2], images[0].shape[:2]
            raise InputError(f"is {size[1]}x{size[0]}, the first image {first[1]}x{first[0]}", where=place)
    stack = np.stack(images)
    return stack[:, None] if stack.ndim == 3 else np.ascontiguousarray(stack.transpose(0, 3, 1, 2))


def read_classes(folder: Path) -> tuple[list[Path], np.ndarray, list[str]]:
    """An image folder with one sub-folder a class: paths, labels int64 (N,), and class names, all sorted by name.

    Raises:
        InputError: no such folder, no sub-folder, or a class without images.
    """
    if not folder.is_dir():
        raise InputError("no such folder", where=str(folder))
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    if not classes:
        raise InputError("no sub-folders", where=str(folder), fix="give each class a folder of its own")
    found = [images_in(folder / name) for name in classes]
    labels = np.repeat(np.arange(len(classes)), [len(paths) for paths in found])
    return [path for paths in found for path in paths], labels, classes


def images_in(folder: Path) -> list[Path]:
    """The images of a folder, sorted by name.

    Raises:
        InputError: there is none.
    """
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _IMAGE_SUFFIXES)
    if not paths:
        raise InputError("holds no images", where=str(folder), fix=f"known suffixes: {sorted(_IMAGE_SUFFIXES)}")
    return paths


def read_npz(path: Path, *keys: str) -> list[np.ndarray]:
    """Arrays of an npz archive by key; pickled objects are refused, never executed.

    Raises:
        InputError: no such file, not an npz archive, cut short, a key that is absent (with the keys there are).
    """
    raw = _bytes(path)
    if not raw.startswith(b"PK"):
        raise InputError("not an npz archive", where=str(path))
    try:
        with np.load(io.BytesIO(raw), allow_pickle=False) as archive:
            if missing := [key for key in keys if key not in archive]:
                raise InputError(f"no key {missing[0]!r}", where=str(path), fix=f"it holds {sorted(archive)}")
            return [archive[key] for key in keys]
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
        raise InputError(f"not a readable npz archive: {error}", where=str(path), fix="fetch the file again") from None


def read_jpegs(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """An npz of joined JPEG streams: images uint8 (N, 3, H, W) and labels int64 (N,).

    Keys: ``jpeg`` (all streams joined, uint8), ``offsets`` (N + 1 positions), ``labels`` (N).

    Raises:
        InputError: see `read_npz`; offsets that do not fit; a stream that is no image.
    """
    joined, offsets, labels = read_npz(path, "jpeg", "offsets", "labels")
    ends = offsets.astype(np.int64)
    if len(ends) != len(labels) + 1 or ends[0] != 0 or ends[-1] != len(joined) or bool((np.diff(ends) <= 0).any()):
        raise InputError("offsets do not fit the streams and labels", where=str(path))
    streams: list[Path | bytes] = [joined[a:b].tobytes() for a, b in itertools.pairwise(ends)]
    return read_images(streams, where=str(path)), labels.astype(np.int64)


def read_table(path: Path, *columns: str) -> list[dict[str, str]]:
    """Rows of a CSV file with a header, in file order.

    Raises:
        InputError: no such file, not text, a column that is absent, or a row that is too short or too long.
    """
    try:
        lines = _bytes(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError("not a text file", where=str(path)) from None
    reader = csv.DictReader(lines, restkey="")
    if missing := [name for name in columns if name not in (reader.fieldnames or ())]:
        raise InputError(f"no column {missing[0]!r}", where=str(path), fix=f"it has {list(reader.fieldnames or ())}")
    rows: list[dict[str, Any]] = list(reader)
    for number, row in enumerate(rows, start=2):
        if "" in row or None in row.values():
            raise InputError("not as many values as columns", where=f"{path}, line {number}")
    return rows


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError("no such file", where=str(path)) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from None
