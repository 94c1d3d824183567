"""Checkpoints opened without being read: every entry can be fetched in pieces, so memory stays small."""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from holdfast.core.errors import InputError
from holdfast.weights import files

__all__ = ["Opened", "Place", "open_checkpoint", "sha256"]

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "C64": torch.complex64,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "U16": torch.uint16, "U32": torch.uint32, "U64": torch.uint64, "BOOL": torch.bool,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in _DTYPES.items()}
"""torch dtype -> its name in a safetensors header."""


@dataclass(frozen=True)
class Place:
    """One entry of an opened checkpoint.

    Args:
        dtype, shape: of the entry.
        piece: ``(start, length)`` -> that many elements from ``start`` on, in row-major order, as a vector. It may
            show the file itself: read it, do not write to it, and copy what is to outlive the opened checkpoint.
    """

    dtype: torch.dtype
    shape: torch.Size
    piece: Callable[[int, int], Tensor]


@dataclass(frozen=True)
class Opened:
    """A checkpoint whose entries can be fetched in pieces.

    Args:
        path: the file.
        places: name -> entry, prefixes of wrappers removed.
        metadata: as `holdfast.weights.files.load` gives it.
    """

    path: Path
    places: Mapping[str, Place]
    metadata: Mapping[str, Any]

    def tensor(self, name: str) -> Tensor:
        """One entry as a whole."""
        place = self.places[name]
        return place.piece(0, place.shape.numel()).clone().view(place.shape)


@contextlib.contextmanager
def open_checkpoint(path: Path | str, *, key: str | None = None) -> Iterator[Opened]:
    """Open a file that `holdfast.weights.files.load` would read; the same forms and the same refusals.

    Files are mapped into memory, so that what is read costs no copy; ``.pt`` files from before torch 1.6 cannot be
    mapped and are loaded whole.

    Raises:
        InputError: a missing, truncated or malicious file, or no state dict inside.
    """
    path = files.locate(path)
    with contextlib.ExitStack() as stack:
        if files.is_index(path):
            shards = files.shards_of(path)
            parts = {shard: _open_safetensors(shard, stack) for shard in shards}
            places = {
                name: files.pick(parts[shard][0], name, path) for shard, names in shards.items() for name in names
            }
            metadata: dict[str, Any] = next((metadata for _, metadata in parts.values()), {})
            source: dict[str, Any] = {"format": "safetensors, sharded"}
        elif path.suffix == ".safetensors":
            places, metadata = _open_safetensors(path, stack)
            source = {"format": "safetensors"}
        else:
            state, metadata, source = files.load_pickle(path, key, mapped=True)
            places = {name: Place(t.dtype, t.shape, partial(_piece_of_tensor, t)) for name, t in state.items()}
        places, prefix = files.strip_prefix(places)
        yield Opened(path, places, {**metadata, "source": {"file": path.name, **source, "prefix": prefix}})


def _open_safetensors(path: Path, stack: contextlib.ExitStack) -> tuple[dict[str, Place], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as checked:  # the library checks the whole header
            metadata = files.decode_metadata(checked.metadata() or {})
        file = stack.enter_context(path.open("rb", buffering=0))
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        mapped = _Mapped(path, file.fileno())
        places = {name: _place(mapped, 8 + length, entry) for name, entry in header.items()}
    except Exception as error:  # the reader's own errors have no common base that is public
        raise files.damaged(path, error) from error
    return places, metadata


class _Mapped:
    """A file as memory."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self._descriptor = path, descriptor
        memory = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given buffer is not writable")  # nobody writes
            self._bytes = torch.frombuffer(memory, dtype=torch.uint8)

    def values(self, begin: int, dtype: torch.dtype, length: int) -> Tensor:
        """The numbers that stand from byte ``begin`` on, uncopied where they are aligned."""
        end = begin + length * dtype.itemsize
        if end > os.fstat(self._descriptor).st_size:  # to touch what is gone would end the process
            raise InputError("became shorter while it was read", where=str(self.path), fix="wait until it is written")
        found = self._bytes[begin:end]
        return (found if begin % dtype.itemsize == 0 else found.clone()).view(dtype)


def _place(mapped: _Mapped, data: int, entry: Mapping[str, Any]) -> Place:
    if entry["dtype"] not in _DTYPES:
        raise InputError(f"dtype {entry['dtype']} cannot be averaged", where=str(mapped.path), fix="convert the file")
    dtype, begin = _DTYPES[entry["dtype"]], data + entry["data_offsets"][0]

    def piece(start: int, length: int) -> Tensor:
        return mapped.values(begin + start * dtype.itemsize, dtype, length)

    return Place(dtype, torch.Size(entry["shape"]), piece)


def _piece_of_tensor(tensor: Tensor, start: int, length: int) -> Tensor:
    if tensor.is_contiguous():
        return tensor.view(-1)[start : start + length]
    # Row by row: flattening a transposed tensor as a whole would copy it.
    width = max(1, tensor[0].numel()) if tensor.dim() else 1
    first, last = start // width, -(-(start + length) // width)
    skip = start - first * width
    return tensor[first:last].reshape(-1)[skip : skip + length]


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
