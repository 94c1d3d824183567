"""A session on ONNX Runtime in the model's nest, which looks into the fused graph to say what really runs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from onnx import TensorProto
from torch import Tensor

from holdfast.core.contracts import Outputs
from holdfast.core.errors import BackendError
from holdfast.core.store import atomic_path
from holdfast.deploy.export import LAYOUT
from holdfast.deploy.nest import unflatten
from holdfast.deploy.ort import open_session, run_session
from holdfast.deploy.plans import executed

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

__all__ = ["OrtSession", "executed_in"]

_TYPES = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}


class OrtSession:
    """An ONNX graph that takes and gives CPU tensors.

    Args:
        path: the graph.
        precision: what was asked for.
        threads: of one operator.
        layout: how outputs nest; default: as the graph's metadata say.
    """

    def __init__(self, path: Path, *, precision: str, threads: int, layout: Any = None) -> None:
        self._executed = precision
        self._session: InferenceSession | None
        if precision == "fp32":
            self._session = open_session(path, threads=threads)
        else:
            # Fusion decides here and now which nodes run in what, so the fused graph is what has to be asked.
            with atomic_path(path.with_suffix(".fused.onnx")) as fused:
                self._session = open_session(path, threads=threads, fused=fused)
                self._executed = executed_in(onnx.load(fused), precision)
        self._layout = layout or json.loads(self._session.get_modelmeta().custom_metadata_map[LAYOUT])

    def __call__(self, *inputs: Tensor) -> Outputs:
        """Run a batch."""
        if self._session is None:
            raise BackendError("the session is closed", where="onnxruntime")
        return unflatten(run_session(self._session, inputs), self._layout)

    def executed_precision(self) -> str:
        """The precision asked for where it runs, how much of the graph runs in it, or what runs instead."""
        return self._executed

    def close(self) -> None:
        """Release the session."""
        self._session = None


def executed_in(fused: onnx.ModelProto, requested: str) -> str:
    """What a graph that ONNX Runtime has fused computes in, see `holdfast.deploy.plans.executed`."""
    weights = {entry.name: _TYPES.get(entry.data_type, "fp32") for entry in fused.graph.initializer}
    nodes = [node for node in fused.graph.node if re.search("Conv|Gemm|MatMul|Attention", node.op_type)]
    return executed(requested, [_precision(node, weights) for node in nodes])


def _precision(node: onnx.NodeProto, weights: Mapping[str, str]) -> str:
    """A node computes in the type of its weights, since kernels take one type."""
    if node.op_type.startswith("Q") or "Integer" in node.op_type:
        return "int8"
    return next((weights[name] for name in node.input if name in weights), "fp32")
