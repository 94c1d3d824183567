"""What stands beside an exported model: which weights, which task, which input, which versions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from torch import nn

from holdfast.core.contracts import Task
from holdfast.core.plain import plain
from holdfast.deploy.graph import GraphView
from holdfast.deploy.identity import versions, weights_key
from holdfast.deploy.lint import lint

__all__ = ["manifest"]


def manifest(
    graph: Path, task: Task, model: nn.Module, *, pipeline: str, precision: str, about: Mapping[str, Any],
    folded: tuple[str, ...] = (),
) -> dict[str, Any]:  # fmt: skip
    """A JSON-ready description of an exported graph.

    Args:
        graph: the file.
        task: its task; tells input range and normalisation.
        model: with the weights that were exported.
        pipeline: preprocessing that the graph expects to have been done.
        precision: of the graph.
        about: what the weight file says of itself: kind (raw, ema, soup), recipe, seeds.
        folded: batch normalisations that stand in the weights of the layer before them.
    """
    loaded = onnx.load(graph)
    view = GraphView(loaded)
    hazards = lint(loaded, precision=precision)
    return {
        "format": "holdfast manifest 1",
        "graph": {"file": graph.name, "sha256": hashlib.sha256(graph.read_bytes()).hexdigest(), "precision": precision,
                  "opset": view.opset, "nodes": len(view.nodes), "folded": list(folded)},
        "inputs": {entry.name: _shape(view, entry.name) for entry in loaded.graph.input},
        "outputs": {entry.name: _shape(view, entry.name) for entry in loaded.graph.output},
        "weights": {"key": weights_key(model), "about": plain(about)},
        "task": task.name,
        "preprocessing": pipeline,
        "input_space": {path: plain(leaf) for path, leaf in task.space},
        "hazards": plain(hazards),
        "versions": versions("holdfast", "torch", "onnx", "onnxscript", "onnxruntime"),
    }  # fmt: skip


def _shape(view: GraphView, tensor: str) -> list[int | str]:
    return ["batch" if i == 0 and dim is None else (dim or "?") for i, dim in enumerate(view.shape(tensor) or ())]
