"""ONNX graphs from anywhere: opened with suspicion, and with the look-ups that every analysis needs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.external_data_helper import ExternalDataInfo

from holdfast.core.errors import InputError

__all__ = ["GraphView", "attributes", "load_graph"]

LARGEST_TENSOR = 2**31
"""Elements; a graph that declares a larger tensor for one sample is refused before anything is allocated."""


def load_graph(path: Path) -> onnx.ModelProto:
    """Read an ONNX file that may come from anybody.

    Nothing of it is executed. External data must lie below the folder of the file; declared sizes are checked before
    they are believed; the graph must be valid, hence free of cycles.

    Raises:
        InputError: missing, damaged or invalid file, external data elsewhere, or a tensor of more than 2^31
            elements.
    """
    where = str(path)
    if not path.is_file():
        raise InputError("no such file", where=where, fix="give an .onnx file")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's decoding errors have no public base
        raise InputError(f"is no ONNX file: {_line(error)}", where=where) from None
    if not model.graph.node or not model.opset_import:
        raise InputError("holds no graph", where=where)
    _check_constants(model, path)
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, OSError, ValueError) as error:
        raise InputError(f"is not valid: {_line(error)}", where=where) from None
    _check_shapes(model, where)
    return model


def _check_shapes(model: onnx.ModelProto, where: str) -> None:
    """Sizes that follow from the graph without running it, such as those of a constant that is filled in."""
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, ValueError) as error:
        raise InputError(f"has shapes that contradict one another: {_line(error)}", where=where) from None
    for entry in (*inferred.input, *inferred.value_info, *inferred.output):
        dims = [dim.dim_value for dim in entry.type.tensor_type.shape.dim if dim.HasField("dim_value")]
        if math.prod(dims) > LARGEST_TENSOR or min(dims, default=0) < 0:
            raise InputError(f"tensor {entry.name!r} would have shape {dims}", where=where)


def _check_constants(model: onnx.ModelProto, path: Path) -> None:
    for tensor in _constants(model.graph):
        if any(dim < 0 for dim in tensor.dims) or math.prod(tensor.dims) > LARGEST_TENSOR:
            raise InputError(f"constant {tensor.name!r} of shape {list(tensor.dims)}", where=str(path))
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            location = ExternalDataInfo(tensor).location
            target = (path.parent / location).resolve()
            if not target.is_relative_to(path.parent.resolve()):
                raise InputError(
                    f"constant {tensor.name!r} lies outside of its folder, in {location!r}", where=str(path),
                    fix="external data must lie beside the model",
                )  # fmt: skip


def _constants(graph: onnx.GraphProto) -> Iterable[onnx.TensorProto]:
    """Every tensor a graph holds: initialisers, values of constants, and those of inner graphs."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for inner in (attribute.g, *attribute.graphs):
            yield from _constants(inner)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


class GraphView:
    """A graph with its edges: who makes a tensor, who reads it, what it is.

    Args:
        model: a valid model; nodes without a name are named by operator and position. Not changed.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        for i, node in enumerate(self.model.graph.node):
            node.name = node.name or f"{node.op_type}_{i}"
        self.nodes: dict[str, onnx.NodeProto] = {node.name: node for node in self.model.graph.node}
        if len(self.nodes) < len(self.model.graph.node):
            raise InputError("two nodes have the same name", where="graph", fix="export it again")
        self.producer = {output: node for node in self.model.graph.node for output in node.output if output}
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.model.graph.node:
            for tensor in dict.fromkeys(node.input):
                self.consumers.setdefault(tensor, []).append(node)

    @property
    def opset(self) -> int:
        """Version of the standard operators."""
        return next((entry.version for entry in self.model.opset_import if entry.domain in ("", "ai.onnx")), 0)

    @cached_property
    def constants(self) -> Mapping[str, np.ndarray]:
        """Values known without running: initialisers and the outputs of Constant nodes."""
        found = {entry.name: numpy_helper.to_array(entry) for entry in self.model.graph.initializer}
        for node in self.model.graph.node:
            value = attributes(node).get("value")
            if node.op_type == "Constant" and isinstance(value, onnx.TensorProto):
                found[node.output[0]] = numpy_helper.to_array(value)
        return found

    @cached_property
    def types(self) -> Mapping[str, onnx.TypeProto.Tensor]:
        """Element type and shape of tensors, as far as inference knows them."""
        inferred = onnx.shape_inference.infer_shapes(self.model).graph
        entries = (*inferred.input, *inferred.output, *inferred.value_info)
        return {entry.name: entry.type.tensor_type for entry in entries}

    def element_type(self, tensor: str) -> int:
        """An `onnx.TensorProto` data type; 0 where it is not known."""
        if tensor in self.constants:
            return int(onnx.helper.np_dtype_to_tensor_dtype(self.constants[tensor].dtype))
        return self.types[tensor].elem_type if tensor in self.types else 0

    def shape(self, tensor: str) -> tuple[int | None, ...] | None:
        """Dimensions, None where one is free; None where nothing is known."""
        if tensor in self.constants:
            return self.constants[tensor].shape
        if tensor not in self.types or not self.types[tensor].HasField("shape"):
            return None
        return tuple(d.dim_value if d.HasField("dim_value") else None for d in self.types[tensor].shape.dim)

    def source(self, node: onnx.NodeProto, index: int = 0) -> onnx.NodeProto | None:
        """The node that makes an input of ``node``, or None for a graph input or a constant."""
        return self.producer.get(node.input[index]) if len(node.input) > index else None

    def readers(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Nodes that read an output of ``node``."""
        return [reader for output in node.output for reader in self.consumers.get(output, [])]

    def scalar(self, node: onnx.NodeProto) -> float | None:
        """The constant among the two operands of a node, if it is a single number."""
        for name in node.input:
            if name in self.constants and self.constants[name].size == 1:
                return float(self.constants[name].reshape(()))
        return None


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes as Python values; byte strings as text."""
    values = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}
