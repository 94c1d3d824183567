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
from holdfast.weights.opened import NAMES, Opened, Place, Row, open_checkpoint, sha256
from holdfast.weights.tree import check_alike

__all__ = ["average_files"]

_PIECE_BYTES = 1 << 18
"""Bytes of one entry of one file read at a time."""
_GROUP = 10
"""Files summed in one pass; more are summed group by group. What a pass reads stays in the cache."""


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
    """Sums entries piece by piece through a few rows of memory that serve all files and entries."""

    def __init__(self, weights: Sequence[float]) -> None:
        self._weights = weights
        self._heaviest = max(range(len(weights)), key=lambda k: weights[k])
        self._equal = len(set(weights)) == 1
        self._rows: dict[tuple[torch.dtype, int], tuple[Tensor, list[Row]]] = {}
        self._sums: dict[torch.dtype, tuple[Tensor, Tensor]] = {}
        self._tensors: dict[torch.dtype, Tensor] = {}
        self._squares = [0.0, 0.0]

    def norm_ratio(self) -> float:
        """Norm of what was written over that of the first file."""
        return math.sqrt(self._squares[0] / self._squares[1]) if self._squares[1] else 1.0

    def write_entry(
        self, file: BinaryIO, name: str, parts: Sequence[tuple[Path, Place]], advance: Callable[[int], None]
    ) -> None:
        """Append one entry of the average."""
        dtype, total = parts[0][1].dtype, parts[0][1].shape.numel()
        length = _PIECE_BYTES // dtype.itemsize
        for start in range(0, total, length):
            block, rows = self._lanes(dtype, min(length, total - start))
            if dtype.is_floating_point or dtype.is_complex:
                piece = self._combine(name, parts, start, block, rows)
            else:
                parts[self._heaviest][1].read(start, rows[0])
                piece = block[0]
            file.write(piece.contiguous().view(torch.uint8).numpy().data)
            advance(len(parts) * len(rows[0].memory))

    def _lanes(self, dtype: torch.dtype, length: int) -> tuple[Tensor, list[Row]]:
        whole = _PIECE_BYTES // dtype.itemsize
        if (dtype, whole) not in self._rows:
            block = torch.empty(min(_GROUP, len(self._weights)), whole, dtype=dtype)
            self._rows[dtype, whole] = block, [Row.of(values) for values in block]
        if length == whole:
            return self._rows[dtype, whole]
        block = self._rows[dtype, whole][0][:, :length]
        return block, [Row.of(values) for values in block]

    def _combine(
        self, name: str, parts: Sequence[tuple[Path, Place]], start: int, block: Tensor, rows: Sequence[Row]
    ) -> Tensor:
        wide = torch.float32 if block.itemsize == 1 else torch.promote_types(block.dtype, torch.float32)
        total, widened = self._wide(block, wide)
        for begin in range(0, len(parts), _GROUP):
            group = parts[begin : begin + _GROUP]
            for (_, place), row in zip(group, rows, strict=False):
                place.read(start, row)
            filled = block[: len(group)]
            if not begin:
                self._squares[1] += _square(filled[0])
            coefficients = self._coefficients(wide)[begin : begin + _GROUP]
            values = filled if block.dtype == wide else widened[: len(group)].copy_(filled)
            torch.addmv(total, values.t(), coefficients, beta=min(begin, 1), out=total)
        if self._equal:
            total *= self._weights[0]
        if not bool(total.sum().isfinite()):
            _refuse(name, parts, start, rows[0], total)
        self._squares[0] += _square(total)
        return total.to(block.dtype)

    def _coefficients(self, wide: torch.dtype) -> Tensor:
        """Those of the files; equal ones are ones here and applied to the sum, which rounds less."""
        if wide not in self._tensors:
            self._tensors[wide] = torch.tensor([1.0 if self._equal else w for w in self._weights], dtype=wide)
        return self._tensors[wide]

    def _wide(self, block: Tensor, wide: torch.dtype) -> tuple[Tensor, Tensor]:
        """Room for a sum and a block in the precision of sums, kept: memory new in every piece has to be mapped."""
        if block.dtype not in self._sums:
            length = _PIECE_BYTES // block.itemsize
            widened = torch.empty(0 if block.dtype == wide else len(block), length, dtype=wide)
            self._sums[block.dtype] = torch.empty(length, dtype=wide), widened
        total, widened = self._sums[block.dtype]
        return total[: block.shape[1]], widened[:, : block.shape[1]]


def _square(values: Tensor) -> float:
    wide = values.abs().float() if values.is_complex() or values.itemsize < 4 else values
    return float(wide.dot(wide))


def _refuse(name: str, parts: Sequence[tuple[Path, Place]], start: int, row: Row, total: Tensor) -> None:
    for path, place in parts:
        place.read(start, row)
        if not bool(row.values.to(total.dtype).isfinite().all()):
            raise InputError(f"NaN or infinite values in {name}", where=str(path),
                             fix="the run that wrote it diverged; leave it out")  # fmt: skip
    if not bool(total.isfinite().all()):
        raise InputError(f"the sum of {name} overflows", where="average", fix="the weights are implausibly large")
