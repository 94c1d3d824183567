"""Averages of whole files, piece by piece: memory does not grow with the number of files or their size."""

from __future__ import annotations

import contextlib
import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from holdfast.core.errors import InputError
from holdfast.core.store import atomic_path
from holdfast.weights.files import encode_metadata
from holdfast.weights.opened import NAMES, Opened, Place, open_checkpoint, sha256
from holdfast.weights.tree import check_alike

__all__ = ["average_files"]

_PIECE_BYTES = 1 << 17
"""Bytes of one entry of one file read at a time: what is summed then stays in the cache."""
_GROUP = 16
"""Files summed in one pass; more are summed group by group."""


def average_files(
    paths: Sequence[Path | str], out: Path | str, *, coefficients: Sequence[float] | None = None,
    key: str | None = None, metadata: Mapping[str, Any] | None = None, hashes: bool = True,
    advance: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:  # fmt: skip
    """Write ``sum_k c_k theta_k`` of many checkpoints to one safetensors file, holding a few MiB at any time.

    Floating entries, BatchNorm statistics among them, are summed in fp32 (fp64 where they are) and written in their
    own dtype; integer and boolean entries come from the file with the largest coefficient. The file appears as a
    whole or not at all.

    Args:
        paths: the checkpoints, in any form that `holdfast.weights.files.load` reads.
        out: the file to write, ``.safetensors``.
        coefficients: one a file. Default: all equal, the uniform soup.
        key: which nested state dict of ``.pt`` files.
        metadata: what the result is; ingredients and counts are added.
        hashes: record the SHA-256 of every ingredient; costs one more pass over the files.
        advance: called with the number of bytes done since the last call.

    Returns:
        The metadata as written. ``norm_ratio`` is the norm of the average over that of the first ingredient: unrelated
        networks cancel towards ``1 / sqrt(K)``, networks of one basin stay near 1.

    Raises:
        InputError: files that do not fit each other (with a table), hold NaN or infinite values or cannot be read,
            or ``out`` without the suffix ``.safetensors``.
    """
    if not paths or (coefficients is not None and len(coefficients) != len(paths)):
        raise InputError(f"{len(paths)} files with {len(coefficients or ())} coefficients", where="average")
    if Path(out).suffix != ".safetensors":
        raise InputError("an average of files is written as .safetensors", where=str(out), fix="change the suffix")
    weights = [1.0 / len(paths)] * len(paths) if coefficients is None else list(coefficients)
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(open_checkpoint(path, key=key)) for path in paths]
        check_alike(_labelled(opened))
        record: dict[str, Any] = {**(metadata or {}), "ingredients": _ingredients(opened, weights, hashes=hashes)}
        with atomic_path(out) as temporary, temporary.open("w+b") as file:
            record |= _write(file, opened, weights, record, advance)
    return record


def _labelled(opened: Sequence[Opened]) -> dict[str, Mapping[str, Place]]:
    return {f"{index}: {one.path.name}" if index else one.path.name: one.places for index, one in enumerate(opened)}


def _ingredients(opened: Sequence[Opened], weights: Sequence[float], *, hashes: bool) -> list[dict[str, Any]]:
    found = []
    for one, weight in zip(opened, weights, strict=True):
        source = {key: value for key, value in one.metadata["source"].items() if value not in ("", [])}
        found.append({**source, "coefficient": weight, **({"sha256": sha256(one.path)} if hashes else {})})
    return found


def _write(
    file: BinaryIO, opened: Sequence[Opened], weights: Sequence[float], record: Mapping[str, Any],
    advance: Callable[[int], None],
) -> dict[str, Any]:  # fmt: skip
    """Write data first, then the header in the room left for it, which by then knows the norms."""
    places, ties = opened[0].places, opened[0].metadata.get("tied", {})
    if any(one.metadata.get("tied", {}) != ties for one in opened):
        ties = {}
    room = len(_header(places, encode_metadata(record, ties))) + 64
    room += -room % 64
    file.seek(room)
    squares = [0.0, 0.0]
    for name in places:
        _sum_entry(file, [(one, one.places[name]) for one in opened], name, weights, squares, advance)
    facts = {"norm_ratio": round(math.sqrt(squares[0] / squares[1]), 4) if squares[1] else 1.0}
    header = _header(places, encode_metadata({**record, **facts}, ties))
    file.seek(0)
    file.write(struct.pack("<Q", room - 8) + header[8:].ljust(room - 8))
    return facts


def _header(places: Mapping[str, Place], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, place in places.items():
        begin, end = end, end + place.shape.numel() * place.dtype.itemsize
        entries[name] = {"dtype": NAMES[place.dtype], "shape": list(place.shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text


def _sum_entry(
    file: BinaryIO, parts: Sequence[tuple[Opened, Place]], name: str, weights: Sequence[float],
    squares: list[float], advance: Callable[[int], None],
) -> None:  # fmt: skip
    dtype, total = parts[0][1].dtype, parts[0][1].shape.numel()
    length = _PIECE_BYTES // dtype.itemsize
    rows = torch.empty(min(len(parts), _GROUP), min(length, total), dtype=dtype)
    for start in range(0, total, length):
        block = rows[:, : min(length, total - start)]
        if dtype.is_floating_point or dtype.is_complex:
            piece = _combine(parts, start, block, weights, squares, name)
        else:
            heaviest = max(range(len(parts)), key=lambda k: weights[k])
            parts[heaviest][1].read(start, block[0])
            piece = block[0]
        file.write(piece.contiguous().view(torch.uint8).numpy().data)
        advance(len(parts) * piece.numel() * dtype.itemsize)


def _combine(
    parts: Sequence[tuple[Opened, Place]], start: int, block: Tensor, weights: Sequence[float],
    squares: list[float], name: str,
) -> Tensor:  # fmt: skip
    wide = torch.float64 if block.dtype == torch.float64 else torch.float32
    if block.dtype.is_complex:
        wide = torch.complex128 if block.dtype == torch.complex128 else torch.complex64
    equal = len(set(weights)) == 1
    total = torch.zeros(block.shape[1], dtype=wide)
    for begin in range(0, len(parts), _GROUP):
        group = parts[begin : begin + _GROUP]
        for row, (_, place) in zip(block, group, strict=False):
            place.read(start, row)
        filled = block[: len(group)]
        if not begin:
            squares[1] += _square(filled[0])
        if equal:
            total += filled.to(wide).sum(0) if filled.itemsize == 1 else filled.sum(0, dtype=wide)
        else:
            total += torch.tensor(weights[begin : begin + _GROUP], dtype=wide) @ filled.to(wide)
    if equal:
        total *= weights[0]
    if not bool(total.sum().isfinite()):
        _refuse(parts, start, block[0], total, name)
    squares[0] += _square(total)
    return total.to(block.dtype)


def _square(values: Tensor) -> float:
    wide = values.abs().float() if values.is_complex() or values.itemsize < 4 else values
    return float(wide.dot(wide))


def _refuse(parts: Sequence[tuple[Opened, Place]], start: int, row: Tensor, total: Tensor, name: str) -> None:
    for one, place in parts:
        place.read(start, row)
        if not bool(row.to(total.dtype).isfinite().all()):
            raise InputError(f"NaN or infinite values in {name}", where=str(one.path),
                             fix="the run that wrote it diverged; leave it out")  # fmt: skip
    if not bool(total.isfinite().all()):
        raise InputError(f"the sum of {name} overflows", where="average", fix="the weights are implausibly large")
