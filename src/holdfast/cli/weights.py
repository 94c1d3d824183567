"""``holdfast weights``: what a weight file holds, and how two differ."""

from __future__ import annotations

import json
import math
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.core.errors import InputError
from holdfast.core.plain import plain

if TYPE_CHECKING:
    from holdfast.weights.opened import Opened

__all__ = ["weights"]


class Action(StrEnum):
    """What to show."""

    info = "info"
    diff = "diff"


def weights(
    action: Annotated[Action, typer.Argument(help="info FILE, or diff FILE FILE.")],
    paths: Annotated[list[Path], typer.Argument(help="safetensors, sharded safetensors or .pt.")],
    key: Annotated[str, typer.Option(help="Which nested state dict of .pt files, e.g. ema.")] = "",
    entries: Annotated[int, typer.Option(min=0, help="Entries to show.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> int:
    """Show what a weight file holds, or how two differ. No code from a file is run.

    Exit code of diff: 0 the same bits, 1 they differ, 2 they cannot be compared.
    """
    wanted = 1 if action is Action.info else 2
    if len(paths) != wanted:
        raise InputError(f"{len(paths)} files", where=f"weights {action.value}", fix=f"name {wanted}")
    from holdfast.weights.opened import open_checkpoint

    if action is Action.info:
        _show(_info(paths[0], key or None, entries), as_json=as_json)
        return 0
    with open_checkpoint(paths[0], key=key or None) as left, open_checkpoint(paths[1], key=key or None) as right:
        facts = _diff(left, right, entries)
    _show(facts, as_json=as_json)
    return int(not facts["identical"])


def _info(path: Path, key: str | None, limit: int) -> dict[str, Any]:
    from holdfast.weights import files
    from holdfast.weights.opened import sha256
    from holdfast.weights.provenance import averages_beside, describe_weights
    from holdfast.weights.tree import count_kinds, describe_state

    path = files.locate(path)
    state, metadata = files.load(path, key=key, finite=False)
    largest = sorted(state, key=lambda name: -state[name].numel())[:limit]
    floating = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
    return {
        "file": str(path), "what": describe_weights(metadata), "averages_beside": averages_beside(path, key=key),
        "bytes": path.stat().st_size, "sha256": sha256(path),
        "metadata": {k: v for k, v in metadata.items() if k != "source"},
        "source": metadata["source"],
        "entries": len(state), "classes": count_kinds(describe_state(state)),
        "values": sum(tensor.numel() for tensor in state.values()),
        "dtypes": {str(d).removeprefix("torch."): sum(t.dtype == d for t in state.values())
                   for d in dict.fromkeys(t.dtype for t in state.values())},
        "norm": math.sqrt(sum(float(tensor.double().square().sum()) for tensor in floating.values())),
        "not_finite": [name for name, tensor in floating.items() if not bool(tensor.float().isfinite().all())],
        "largest": {name: f"{str(state[name].dtype).removeprefix('torch.')} {tuple(state[name].shape)}"
                    for name in largest},
    }  # fmt: skip


def _diff(left: Opened, right: Opened, limit: int) -> dict[str, Any]:
    import torch

    only = {
        "only_in_first": [name for name in left.places if name not in right.places],
        "only_in_second": [name for name in right.places if name not in left.places],
    }
    common = [name for name in left.places if name in right.places]
    if not common:
        raise InputError("they have no entry in common", where=f"{left.path.name} and {right.path.name}",
                         fix="are they of one architecture? --key names another state dict")  # fmt: skip
    reshaped, changed, same, squares = [], {}, 0, [0.0, 0.0]
    for name in common:
        a, b = left.tensor(name), right.tensor(name)
        if a.shape != b.shape or a.dtype != b.dtype:
            reshaped.append(f"{name}: {a.dtype} {tuple(a.shape)}, {b.dtype} {tuple(b.shape)}")
            continue
        gap = b.double() - a.double()
        squares[0] += float(gap.square().sum())
        squares[1] += float(a.double().square().sum())
        if torch.equal(a, b):
            same += 1
        else:
            relative = float(gap.norm() / a.double().norm().clamp_min(1e-300))
            changed[name] = {"largest": float(gap.abs().max()), "relative": relative}
    order = sorted(changed, key=lambda name: -changed[name]["relative"])
    return {
        "first": str(left.path), "second": str(right.path),
        "identical": not (changed or reshaped or any(only.values())), "equal_entries": same,
        "changed_entries": len(changed), "distance": math.sqrt(squares[0]),
        "relative_distance": math.sqrt(squares[0] / squares[1]) if squares[1] else 0.0,
        **only, "reshaped": reshaped, "most_changed": {name: changed[name] for name in order[:limit]},
    }  # fmt: skip


def _show(facts: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(plain(facts), allow_nan=False))
        return
    for name, value in facts.items():
        if isinstance(value, dict):
            print(f"{name}:" if value else f"{name}: none")
            for key, inner in value.items():
                print(f"  {key}: {_text(inner)}")
        else:
            print(f"{name}: {_text(value)}")


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        shown = [_text(item) for item in value[:8]] + (["..."] if len(value) > 8 else [])
        return ", ".join(shown) or "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
