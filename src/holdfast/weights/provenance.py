"""Which copy is which: whether weights are raw, and whether an average of the same run was left aside."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast.core.errors import InputError
from holdfast.weights.files import AVERAGE_KEYS, locate
from holdfast.weights.opened import open_checkpoint

__all__ = ["averages_beside", "describe_weights"]


def describe_weights(metadata: Mapping[str, Any]) -> str:
    """What weights are, in a few words, by the metadata that `holdfast.weights.files.load` gave.

    Args:
        metadata: of the file.
    """
    if kind := metadata.get("average"):
        count = len(metadata.get("members", metadata.get("ingredients", ())))
        statistics = metadata.get("batchnorm", {}).get("chosen", "")
        parts = [str(kind), f"of {count}" if count else "", f"BatchNorm: {statistics}" if statistics else ""]
        return ", ".join(part for part in parts if part)
    key = metadata.get("source", {}).get("key", "")
    return f"average ({key})" if key in AVERAGE_KEYS else "raw"


def averages_beside(path: Path | str, *, key: str | None = None) -> list[str]:
    """Averages of the same architecture that were left aside when raw weights were picked.

    Looked for in the file itself (an ``ema`` beside ``model``) and among the safetensors files of its folder. Exporting
    raw weights though an average exists is a common and silent mistake: say so.

    Args:
        path: the weights that were picked.
        key: the nested state dict that was picked.

    Returns:
        What was found, empty when the picked weights are an average themselves.

    Raises:
        InputError: ``path`` cannot be read.
    """
    path = locate(path)
    with open_checkpoint(path, key=key) as picked:
        if describe_weights(picked.metadata) != "raw":
            return []
        names = set(picked.places)
        found = [
            f"{path}, key {other}" for other in picked.metadata["source"].get("others", ()) if other in AVERAGE_KEYS
        ]
    for other in sorted(path.parent.glob("*.safetensors")):
        try:
            with open_checkpoint(other) as candidate:
                if set(candidate.places) == names and "average" in candidate.metadata:
                    found.append(f"{other} ({describe_weights(candidate.metadata)})")
        except InputError:
            continue  # a damaged neighbour says nothing about the picked file
    return found
