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
from holdfast.weights.halves import HALVES, MeanOfHalves
from holdfast.weights.opened import NAMES, Opened, Place, open_checkpoint, sha256
from holdfast.weights.tree import check_alike

__all__ = ["average_files"]

_PIECE = 1 << 20
"""Numbers of one entry of one file added at a time; the sum of so many stays in the cache."""
_WIDENED = 1 << 16
"""Numbers converted to the precision of the sum at a time."""
_WRITTEN_BYTES = 1 << 18
"""Written at a time: ext4 takes four times the CPU for pieces of 4 MiB."""


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
        The metadata as written. ``norm_ratio`` is the norm of the average over that of the first ingredient, large
        entries by a sample of their numbers: unrelated networks cancel towards ``1 / sqrt(K)``, networks of one basin
        stay near 1.

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
    adder = _Adder(weights)
    for name in places:
        adder.write_entry(file, name, [(one.path, one.places[name]) for one in opened], advance)
    facts = {"norm_ratio": round(adder.norm_ratio(), 4)}
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


class _Adder:
    """Sums entries piece by piece in memory that serves all files and entries."""

    def __init__(self, weights: Sequence[float]) -> None:
        # Equal coefficients are ones here and applied to the sum, which rounds less.
        self._common = weights[0] if len(set(weights)) == 1 else 1.0
        self._weights = [1.0 if len(set(weights)) == 1 else weight for weight in weights]
        self._mean = MeanOfHalves(len(weights)) if self._common == 1.0 / len(weights) else None
        self._heaviest = max(range(len(weights)), key=lambda k: weights[k])
        self._rooms: dict[tuple[str, torch.dtype], Tensor] = {}
        self._squares = [0.0, 0.0]

    def norm_ratio(self) -> float:
        """Norm of what was written over that of the first file."""
        return math.sqrt(self._squares[0] / self._squares[1]) if self._squares[1] else 1.0

    def write_entry(
        self, file: BinaryIO, name: str, parts: Sequence[tuple[Path, Place]], advance: Callable[[int], None]
    ) -> None:
        """Append one entry of the average."""
        dtype, total = parts[0][1].dtype, parts[0][1].shape.numel()
        for start in range(0, total, _PIECE):
            length = min(_PIECE, total - start)
            if dtype.is_floating_point or dtype.is_complex:
                piece = self._combine(name, parts, start, length)
            else:
                piece = parts[self._heaviest][1].piece(start, length)
            memory = piece.contiguous().view(torch.uint8).numpy().data
            for begin in range(0, len(memory), _WRITTEN_BYTES):
                file.write(memory[begin : begin + _WRITTEN_BYTES])
            advance(len(parts) * length * dtype.itemsize)

    def _combine(self, name: str, parts: Sequence[tuple[Path, Place]], start: int, length: int) -> Tensor:
        dtype, pieces = parts[0][1].dtype, [place.piece(start, length) for _, place in parts]
        if self._mean is not None and dtype in HALVES:
            total = self._room("total", dtype, _PIECE)[:length]
            self._mean(total, pieces)
        else:
            wide = torch.float32 if dtype.itemsize == 1 else torch.promote_types(dtype, torch.float32)
            total = self._room("total", wide, _PIECE)[:length]
            block = _PIECE if dtype == wide else _WIDENED
            for into, *parted in zip(*(torch.split(v, block) for v in (total, *pieces)), strict=True):
                self._sum(into, parted)
        if not bool(total.sum().isfinite()) and not bool(total.isfinite().all()):
            _refuse(name, parts, start, total)
        for index, values in enumerate((total, pieces[0])):
            self._squares[index] += _square(values)
        return total.to(dtype)

    def _sum(self, into: Tensor, values: Sequence[Tensor]) -> None:
        """``into = sum_k c_k values_k``, through one room where they have to be converted first."""
        into.copy_(values[0])
        if self._weights[0] != 1.0:
            into *= self._weights[0]
        room = None if values[0].dtype == into.dtype else self._room("widened", into.dtype, _WIDENED)[: len(into)]
        for vector, weight in zip(values[1:], self._weights[1:], strict=True):
            into.add_(vector if room is None else room.copy_(vector), alpha=weight)
        if self._common != 1.0:
            into *= self._common

    def _room(self, what: str, dtype: torch.dtype, length: int) -> Tensor:
        """A vector that is kept: memory that is new in every piece has to be mapped."""
        if (what, dtype) not in self._rooms:
            self._rooms[what, dtype] = torch.empty(length, dtype=dtype)
        return self._rooms[what, dtype]


def _square(values: Tensor) -> float:
    """The sum of squares; of many numbers, what every 13th says of all: layers seldom have 13 as a period."""
    sample = values[::13] if len(values) > _WIDENED else values
    wide = sample.abs().float() if values.is_complex() or values.itemsize < 4 else sample
    return float(wide.dot(wide)) * len(values) / max(len(sample), 1)


def _refuse(name: str, parts: Sequence[tuple[Path, Place]], start: int, total: Tensor) -> None:
    for path, place in parts:
        if not bool(place.piece(start, len(total)).to(total.dtype).isfinite().all()):
            raise InputError(f"NaN or infinite values in {name}", where=str(path),
                             fix="the run that wrote it diverged; leave it out")  # fmt: skip
    if not bool(total.isfinite().all()):
        raise InputError(f"the sum of {name} overflows", where="average", fix="the weights are implausibly large")
