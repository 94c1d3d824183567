"""ONNX Runtime on the CPU: sessions that take and give torch tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from holdfast.core.errors import BackendError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

__all__ = ["feed", "fetch", "open_session", "run_session"]


def open_session(
    graph: Path | bytes, *, threads: int, optimise: bool = True, fused: Path | None = None
) -> InferenceSession:
    """Load a graph for the CPU.

    Args:
        graph: the ``.onnx`` file, or its content.
        threads: of one operator; nodes run one after another.
        optimise: fuse nodes; off, a quantised graph is simulated in floating point.
        fused: where the fused graph is written, for a look at what really runs.

    Raises:
        BackendError: the graph is not valid.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what it would print is raised as well
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    if fused is not None:
        options.optimized_model_filepath = str(fused)
    try:
        source = graph if isinstance(graph, bytes) else str(graph)
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # a class of its own for each status code, without a common base
        where = "onnxruntime" if isinstance(graph, bytes) else str(graph)
        raise BackendError(str(error).splitlines()[0], where=where) from error


def run_session(session: InferenceSession, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Run a batch; the results are new tensors.

    Raises:
        BackendError: wrong number, shape or dtype of inputs.
    """
    names = [entry.name for entry in session.get_inputs()]
    if len(names) != len(inputs):
        raise BackendError(f"{len(inputs)} inputs given, the graph has {names}", where="onnxruntime")
    return [torch.from_numpy(result) for result in fetch(session, None, feed(names, inputs))]


def fetch(session: InferenceSession, names: list[str] | None, given: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs of these names, or all.

    Raises:
        BackendError: wrong names, shapes or dtypes.
    """
    try:
        found: list[np.ndarray] = session.run(names, given)
    except Exception as error:  # see `open_session`
        raise BackendError(str(error).splitlines()[0], where="onnxruntime") from error
    return found


def feed(names: Sequence[str], inputs: Sequence[Tensor]) -> dict[str, np.ndarray]:
    """Inputs by name as the arrays that a session takes."""
    return {name: np.ascontiguousarray(x.detach().cpu().numpy()) for name, x in zip(names, inputs, strict=True)}
