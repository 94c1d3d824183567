"""Measurements as named arrays, as they lie in the ``.npz`` files beside the rows, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from holdfast.core.contracts import Measurement, Picture
from holdfast.core.errors import InputError

__all__ = ["pack_pictures", "pack_samples", "unpack_pictures", "unpack_series"]

Arrays = Mapping[str, np.ndarray]


def pack_samples(measurements: Sequence[Measurement]) -> dict[str, np.ndarray]:
    """``values_<i>`` and ``groups_<i>`` of every measurement ``i``, and its curves as ``series_<i>_<name>``.

    Raises:
        InputError: values and groups of a measurement are not two arrays of the same length.
    """
    packed: dict[str, np.ndarray] = {}
    for index, measurement in enumerate(measurements):
        values = np.asarray(measurement.values, dtype=np.float64)
        groups = np.asarray(measurement.groups, dtype=np.int64)
        if values.ndim != 1 or values.shape != groups.shape:
            raise InputError(
                f"values have shape {values.shape} and groups {groups.shape}",
                where=f"probe {measurement.row.probe}, metric {measurement.row.metric}",
                fix="give one value and one group code a sample, each of shape (n,)",
            )
        packed[f"values_{index}"], packed[f"groups_{index}"] = values, groups
        packed |= {
            f"series_{index}_{name}": np.asarray(curve, dtype=np.float64) for name, curve in measurement.series.items()
        }
    return packed


def unpack_series(arrays: Arrays, index: int | None, *, where: str) -> dict[str, np.ndarray]:
    """Curves by name of measurement ``index``, or of all of them.

    Raises:
        InputError: measurements have different curves of the same name.
    """
    found: dict[str, np.ndarray] = {}
    for key in arrays:
        if not key.startswith("series_"):
            continue
        _, number, name = key.split("_", 2)
        if index not in (None, int(number)):
            continue
        if name in found and not np.array_equal(found[name], arrays[key], equal_nan=True):
            raise InputError(f"several rows have a series {name!r} of their own", where=where, fix="ask by row")
        found[name] = arrays[key]
    return found


def pack_pictures(measurements: Sequence[Measurement]) -> dict[str, np.ndarray]:
    """``image_<i>_<k>`` and ``caption_<i>_<k>`` of picture ``k``, its polylines as ``line_<i>_<k>_<j>_<role>``."""
    packed: dict[str, np.ndarray] = {}
    for index, measurement in enumerate(measurements):
        for number, picture in enumerate(measurement.pictures):
            packed[f"image_{index}_{number}"] = np.asarray(picture.image, dtype=np.uint8)
            packed[f"caption_{index}_{number}"] = np.array(picture.caption)
            packed |= {f"line_{index}_{number}_{j}_{role}": line for j, role, line in _lines(picture)}
    return packed


def _lines(picture: Picture) -> Iterator[tuple[int, str, np.ndarray]]:
    pairs = ((role, line) for role, lines in picture.lines.items() for line in lines)
    for j, (role, line) in enumerate(pairs):
        yield j, role, np.asarray(line, dtype=np.float64).reshape(-1, 2)


def unpack_pictures(arrays: Arrays, index: int | None) -> list[Picture]:
    """Pictures of measurement ``index``, or of all of them, in the order in which they were packed."""
    lines: dict[str, dict[str, list[np.ndarray]]] = {}
    for key in arrays:
        if key.startswith("line_"):
            _, i, k, _, role = key.split("_", 4)
            lines.setdefault(f"{i}_{k}", {}).setdefault(role, []).append(arrays[key])
    places = [key.removeprefix("image_") for key in arrays if key.startswith("image_")]
    return [
        Picture(image=arrays[f"image_{at}"], lines=lines.get(at, {}), caption=str(arrays[f"caption_{at}"]))
        for at in places
        if index is None or at.split("_")[0] == str(index)
    ]
