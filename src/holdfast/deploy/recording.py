"""Recorded outputs: a kit goes to the target, ``outputs.npz`` comes back and is replayed sample by sample."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from safetensors import safe_open
from torch import Tensor

from holdfast.core.contracts import Outputs
from holdfast.core.errors import BackendError, InputError
from holdfast.core.store import atomic_path
from holdfast.deploy.export import LAYOUT
from holdfast.deploy.identity import digest
from holdfast.deploy.nest import unflatten
from holdfast.deploy.target import record

__all__ = ["Recording", "read_recording", "sample_keys", "write_kit"]

_NEEDED = ("format", "kit", "layout", "runtime", "device", "precision", "executed", "time")


@dataclass(frozen=True, kw_only=True)
class Recording:
    """Outputs that some target gave, by the content of its inputs.

    Args:
        about: provenance as the target wrote it: runtime, device, precision asked for and executed, model hash, and
            under ``of`` what the kit was made of.
        rows: index of a sample by the hash of its inputs.
        outputs: one tensor (N, ...) per output.
        where: the file.
    """

    about: Mapping[str, Any]
    rows: Mapping[bytes, int]
    outputs: tuple[Tensor, ...]
    where: str

    @property
    def limit(self) -> int | None:
        """At most that many samples of a split were in the kit; none: all of them, or the recording does not say."""
        kit = self.about.get("of")
        limit = kit.get("limit") if isinstance(kit, dict) else None
        return limit if isinstance(limit, int) else None

    def replay(self, *inputs: Tensor) -> Outputs:
        """The recorded outputs of a batch, in the model's nest.

        Raises:
            BackendError: a sample that was not recorded: nothing is computed here.
        """
        keys = sample_keys(inputs)
        missing = sum(key not in self.rows for key in keys)
        if missing:
            raise BackendError(
                f"{missing} of {len(keys)} samples were not recorded", where=self.where,
                fix="write the kit from the same split, pipeline, limit and task, and record all of it",
            )  # fmt: skip
        rows = torch.tensor([self.rows[key] for key in keys])
        return unflatten([output[rows] for output in self.outputs], self.about["layout"])


def sample_keys(inputs: Sequence[Tensor]) -> list[bytes]:
    """Sixteen bytes that name each sample of a batch by its content."""
    arrays = [x.detach().cpu().contiguous().numpy() for x in inputs]
    kinds = [f"{array.dtype}{array.shape[1:]}".encode() for array in arrays]
    keys = []
    for i in range(len(arrays[0])):
        seen = hashlib.sha256()
        for kind, array in zip(kinds, arrays, strict=True):
            seen.update(kind)
            seen.update(array[i].tobytes())
        keys.append(seen.digest()[:16])
    return keys


def write_kit(
    folder: Path, graph: Path, batches: Sequence[tuple[Tensor, ...]], *, about: Mapping[str, Any] | None = None,
    with_model: bool = True,
) -> Path:  # fmt: skip
    """A folder for the target: inputs, manifest, the exported model, and one script that needs numpy alone.

    Args:
        folder: where it goes; files of an earlier kit are replaced.
        graph: what `holdfast.deploy.export.export_onnx` wrote; names inputs and outputs.
        batches: model inputs, as the deployed pipeline gives them.
        about: anything to tell the reader: task, weights, pipeline, split.
        with_model: take the graph along; without it the kit holds no weights.

    Raises:
        InputError: no samples, or batches that do not fit the graph's inputs.
    """
    loaded = onnx.load(graph)
    layout = json.loads({entry.key: entry.value for entry in loaded.metadata_props}[LAYOUT])
    names = [entry.name for entry in loaded.graph.input]
    if not batches or any(len(batch) != len(names) for batch in batches):
        raise InputError(f"{len(batches)} batches for inputs {names}", where="record-kit")
    inputs, index = _distinct([torch.cat(parts).cpu() for parts in zip(*batches, strict=True)])
    kit = {
        "key": digest(index.tobytes().hex(), layout), "inputs": names,
        "outputs": [entry.name for entry in loaded.graph.output], "layout": layout, "samples": len(index),
        "shapes": [list(x.shape[1:]) for x in inputs], "about": dict(about or {}),
    }  # fmt: skip
    arrays: dict[str, Any] = {f"input_{i}": x.numpy() for i, x in enumerate(inputs)}
    with atomic_path(folder / "inputs.npz") as path:
        np.savez_compressed(path, index=index, **arrays)
    if with_model:
        with atomic_path(folder / "model.onnx") as path:
            shutil.copyfile(graph, path)
    with atomic_path(folder / "record.py") as path:
        shutil.copyfile(record.__file__, path)
    with atomic_path(folder / "kit.json") as path:
        path.write_text(json.dumps(kit, indent=1), encoding="utf-8")
    return folder


def _distinct(inputs: list[Tensor]) -> tuple[list[Tensor], np.ndarray]:
    """Samples without repetition, and their keys as uint8 (N, 16): equal inputs have equal outputs."""
    first: dict[bytes, int] = {}
    for i, key in enumerate(sample_keys(inputs)):
        first.setdefault(key, i)
    index = np.frombuffer(b"".join(first), dtype=np.uint8).reshape(-1, 16)
    return [x[list(first.values())] for x in inputs], index


def read_recording(path: Path) -> Recording:
    """Outputs brought back from a target: the ``npz`` of ``record.py``, or the same arrays as ``.safetensors``.

    Arrays are ``index`` uint8 (N, 16) and ``output_0``, ``output_1``, ... (N, ...); ``about``, the provenance, is
    JSON: an array of text in an ``npz``, an entry of the metadata in safetensors.

    Raises:
        InputError: no such file, not a recording, without provenance, or with outputs of another length.
    """
    where = str(path)
    try:
        told, arrays = (_from_safetensors if path.suffix == ".safetensors" else _from_npz)(path)
        about = json.loads(told)
        index = arrays.pop("index")
    except FileNotFoundError:
        raise InputError("no such file", where=where, fix="give the outputs.npz that record.py wrote") from None
    except Exception as error:  # a damaged archive fails in as many ways as there are bytes
        raise InputError(f"is no recording: {type(error).__name__}: {error}", where=where) from None
    if missing := [key for key in _NEEDED if not isinstance(about, dict) or key not in about]:
        raise InputError(f"lacks its provenance: {', '.join(missing)}", where=where, fix="record with record.py")
    if about["format"] != record.FORMAT:
        raise InputError(f"format {about['format']!r}, expected {record.FORMAT!r}", where=where)
    outputs = [arrays[f"output_{i}"] for i in range(len(arrays)) if f"output_{i}" in arrays]
    if not outputs or any(len(output) != len(index) for output in outputs) or index.shape[1:] != (16,):
        raise InputError(f"{[o.shape for o in outputs]} outputs for {len(index)} samples", where=where)
    rows = {bytes(key): i for i, key in enumerate(index.astype(np.uint8))}
    return Recording(about=about, rows=rows, outputs=tuple(map(_tensor, outputs)), where=where)


def _from_npz(path: Path) -> tuple[str, dict[str, Any]]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    return str(arrays.pop("about")), arrays


def _from_safetensors(path: Path) -> tuple[str, dict[str, Any]]:
    with safe_open(path, framework="np") as archive:
        return archive.metadata()["about"], {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118 - not a mapping


def _tensor(array: np.ndarray) -> Tensor:
    """Halves become fp32: metrics are computed in it."""
    return torch.from_numpy(array.astype(np.float32) if array.dtype == np.float16 else array)
