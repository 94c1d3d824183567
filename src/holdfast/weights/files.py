"""Weight files: safetensors (one or sharded) and ``.pt`` (``weights_only=True``), checked, unwrapped and labelled."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from holdfast.core.errors import InputError
from holdfast.core.store import atomic_path
from holdfast.weights.sharded import local
from holdfast.weights.tree import State, check_finite, describe_state

__all__ = ["load", "save"]

AVERAGE_KEYS = ("state_dict_ema", "ema_state_dict", "model_ema", "ema")
STATE_KEYS = ("state_dict", "model_state_dict", "model", "module", "net", "weights", "params", *AVERAGE_KEYS)
"""Where checkpoints keep their weights, in the order of preference: raw weights before averages."""
PREFIXES = ("module.", "_orig_mod.")
"""What wrappers (DDP, compile) put before every name."""
_METADATA = "holdfast"

T = TypeVar("T")


# --- writing ----------------------------------------------------------------------------------------------


def save(path: Path | str, state: State, metadata: Mapping[str, Any] | None = None) -> None:
    """Write a state dict, atomically: after a crash the old file stands or the new one, never a part.

    Tied weights are written under each of their names, so that any reader finds all of them, and the tie is
    recorded. Non-tensor entries are refused.

    Args:
        path: ``.safetensors``, or ``.pt`` / ``.pth`` / ``.ckpt`` for `torch.save`.
        state: name -> tensor.
        metadata: what these weights are; anything that JSON can hold.

    Raises:
        InputError: an unknown suffix, or an entry that is not a tensor or only one rank's part of it (FSDP2).
    """
    path, metadata = Path(path), dict(metadata or {})
    if odd := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise InputError(f"{odd[0]} is no tensor", where=str(path), fix="save non-tensor state beside the weights")
    if sharded := [name for name, value in state.items() if local(value) is not value]:
        raise InputError(f"{sharded[0]} is sharded over ranks", where=str(path),
                         fix="gather it with full_tensor() on every rank, then save on one")  # fmt: skip
    with atomic_path(path) as temporary:
        if path.suffix == ".safetensors":
            flat = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
            ties = ties_of(state)
            flat |= {alias: flat[original].clone() for alias, original in ties.items()}
            save_file(_apart(flat), temporary, metadata=encode_metadata(metadata, ties))
        elif path.suffix in (".pt", ".pth", ".ckpt"):
            torch.save({"state_dict": dict(state), "metadata": json.loads(json.dumps(metadata))}, temporary)
        else:
            raise InputError(f"suffix {path.suffix!r} is not known", where=str(path), fix="use .safetensors or .pt")


def ties_of(state: State) -> dict[str, str]:
    """Name -> the first name that shares its tensor."""
    return {entry.name: entry.tied_to for entry in describe_state(state) if entry.tied_to}


def encode_metadata(metadata: Mapping[str, Any], ties: Mapping[str, str]) -> dict[str, str]:
    """The string dictionary of a safetensors header; ``format: pt`` is what other readers look for."""
    return {"format": "pt", _METADATA: json.dumps({**metadata, **({"tied": dict(ties)} if ties else {})})}


def _apart(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Views of one storage, such as a flat parameter buffer, as tensors of their own: the format wants them apart."""
    seen: set[int] = set()
    for name, tensor in state.items():
        if tensor.untyped_storage().data_ptr() in seen:
            state[name] = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
    return state


# --- reading ----------------------------------------------------------------------------------------------


def load(path: Path | str, *, key: str | None = None, finite: bool = True) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a state dict and what is known of it.

    Nested checkpoints (``state_dict``, ``model``, ``ema``, ...) and the prefixes of wrappers are recognised; what
    was done stands in the metadata under ``source``, together with the other state dicts that the file holds.
    Pickled code is never run. The tensors are in memory of their own: the file may change afterwards.

    Args:
        path: ``.safetensors``, a ``.safetensors.index.json`` or a folder with one, or anything `torch.save` wrote.
        key: which nested state dict to take, dotted when deep; default: the first of `STATE_KEYS` that is there.
        finite: refuse NaN and infinite values.

    Returns:
        The state dict and the metadata.

    Raises:
        InputError: a missing, truncated or malicious file, no state dict inside, NaN or infinite values.
    """
    path = locate(path)
    if is_index(path):
        state, metadata, source = *_load_sharded(path), {"format": "safetensors, sharded"}
    elif path.suffix == ".safetensors":
        state, metadata, source = *_load_safetensors(path), {"format": "safetensors"}
    else:
        state, metadata, source = load_pickle(path, key)
    state, prefix = strip_prefix(state)
    if finite:
        check_finite(state, where=str(path))
    return state, {**metadata, "source": {"file": path.name, **source, "prefix": prefix}}


def locate(path: Path | str) -> Path:
    """The file that holds the weights: ``path`` itself, or the only index or weight file of a folder.

    Raises:
        InputError: no such file, or a folder without exactly one.
    """
    path = Path(path)
    if path.is_dir():
        found = sorted(path.glob("*.safetensors.index.json")) or sorted(path.glob("*.safetensors"))
        if len(found) != 1:
            raise InputError(f"{len(found)} weight files", where=str(path), fix="name the file or the index")
        path = found[0]
    if not path.is_file():
        raise InputError("no such file", where=str(path), fix="give a .safetensors or .pt file")
    return path


def is_index(path: Path) -> bool:
    """Whether a file lists the shards of a checkpoint."""
    return path.name.endswith(".index.json")


def strip_prefix(state: Mapping[str, T]) -> tuple[dict[str, T], str]:
    """The state without the prefixes that all of its names carry, and those prefixes."""
    removed = ""
    while state:
        common = [p for p in PREFIXES if all(name.startswith(p) and len(name) > len(p) for name in state)]
        if not common:
            break
        state = {name.removeprefix(common[0]): tensor for name, tensor in state.items()}
        removed += common[0]
    return dict(state), removed


def _load_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            # The tensors are views of the mapped file: cloned, they survive whatever happens to it.
            state = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  no iterator
            metadata = decode_metadata(file.metadata() or {})
    except Exception as error:  # the reader's own errors have no common base that is public
        raise damaged(path, error) from error
    for alias, original in metadata.get("tied", {}).items():
        state[alias] = state[original]
    return state, metadata


def decode_metadata(header: Mapping[str, str]) -> dict[str, Any]:
    """What `encode_metadata` wrote; the plain strings of files written by others."""
    if _METADATA in header:
        decoded = json.loads(header[_METADATA])
        return dict(decoded)
    return {name: value for name, value in header.items() if name != "format"}


def shards_of(index: Path) -> dict[Path, list[str]]:
    """Shard file -> names it holds, of a ``.safetensors.index.json``.

    Raises:
        InputError: a damaged index, a missing shard, or one outside the index's folder.
    """
    try:
        weight_map = dict(json.loads(index.read_text())["weight_map"])
        names: dict[Path, list[str]] = {}
        for name, shard in weight_map.items():
            if Path(shard).name != shard:
                raise ValueError(f"shard {shard!r} is not a plain file name")
            names.setdefault(index.parent / shard, []).append(name)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged(index, error) from error
    for shard in names:
        if not shard.is_file():
            raise InputError(f"its shard {shard.name} is missing", where=str(index), fix="copy all shards")
    return names


def _load_sharded(index: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    state: dict[str, Tensor] = {}
    metadata: dict[str, Any] = {}
    for shard, names in shards_of(index).items():
        part, metadata = _load_safetensors(shard)
        state |= {name: pick(part, name, index) for name in names}
    return state, metadata


def pick(part: Mapping[str, T], name: str, index: Path) -> T:
    """The entry of a shard that the index promises.

    Raises:
        InputError: when it is not there.
    """
    if name not in part:
        raise InputError(f"no shard holds {name}", where=str(index), fix="copy all shards")
    return part[name]


def load_pickle(
    path: Path, key: str | None, *, mapped: bool = False
) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
    """The state dict that `torch.save` wrote, its metadata, and where it was found; no code from the file is run.

    Raises:
        InputError: truncated, no torch file, one that wants code to be run, or no state dict under ``key``.
    """
    content = _read_pickle(path, mapped=mapped)
    found = _nested_states(content)
    chosen = key if key is not None else next((k for k in ("", *STATE_KEYS) if k in found), next(iter(found), None))
    if chosen is None or chosen not in found:
        what = f"no state dict {key!r}" if key else "no state dict"
        raise InputError(f"{what} inside", where=str(path), fix=f"it holds {sorted(found) or _keys(content)}")
    metadata = content.get("metadata", {}) if chosen else {}
    source = {"format": "torch", "key": chosen, "others": sorted(set(found) - {chosen})}
    return found[chosen], dict(metadata) if isinstance(metadata, Mapping) else {}, source


def _read_pickle(path: Path, *, mapped: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and zipfile.is_zipfile(path))
    except Exception as error:  # a damaged pickle may raise anything; nothing in it is executed
        raise damaged(path, error) from error


def _nested_states(content: Any) -> dict[str, dict[str, Tensor]]:
    """Dotted key -> state dict, for every mapping of names to tensors up to two levels deep."""
    found: dict[str, dict[str, Tensor]] = {}
    level = {"": content}
    for _ in range(3):
        deeper: dict[str, Any] = {}
        for place, node in level.items():
            if not isinstance(node, Mapping):
                continue
            if node and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in node.items()):
                found[place] = dict(node)
            else:
                deeper |= {f"{place}.{k}" if place else str(k): v for k, v in node.items() if isinstance(k, str)}
        level = deeper
    return found


def _keys(content: Any) -> list[str]:
    return sorted(map(str, content)) if isinstance(content, Mapping) else [type(content).__name__]


def damaged(path: Path, error: Exception) -> InputError:
    """The refusal of a file that cannot be read, with the reason in one line."""
    lines = str(error).splitlines() or [type(error).__name__]
    if isinstance(error, pickle.UnpicklingError):
        # torch advises to switch the protection off; what matters is what the pickle wanted.
        wanted = [line for line in lines if "GLOBAL" in line or "Unsupported" in line]
        lines = [f"its pickle is refused: {wanted[0].strip()}" if wanted else "its pickle is not plain data"]
    return InputError(
        f"cannot be read: {lines[0][:200]}", where=str(path), fix="it is truncated, not weights, or unsafe"
    )
