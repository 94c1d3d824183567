"""A precision plan written into an ONNX graph: as casts that an engine obeys, or as roundings that emulate it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from holdfast.core.contracts import PrecisionPlan
from holdfast.core.errors import BackendError
from holdfast.core.store import atomic_path
from holdfast.deploy.graph import GraphView
from holdfast.deploy.identity import digest

__all__ = ["emulate_plan", "lowerable", "lowered_nodes", "type_plan", "write_typed"]

_CASTS = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
_LEFT_ALONE = ("If", "Loop", "Scan", "Cast", "QuantizeLinear", "DequantizeLinear", "Constant")


def lowerable(view: GraphView) -> list[str]:
    """Names of the nodes that hold fp32 numbers which may as well be fp16, in the order of the graph."""
    return [
        name
        for name, node in view.nodes.items()
        if node.op_type not in _LEFT_ALONE and _castable(view, node, "inputs") and _castable(view, node, "outputs")
    ]


def lowered_nodes(view: GraphView, plan: PrecisionPlan) -> dict[str, str]:
    """Precision of every node that does not stay in fp32, by name.

    Raises:
        BackendError: the plan names a node that is not there or cannot be lowered, or an unknown precision.
    """
    if odd := {plan.default, *plan.nodes.values()} - {"fp32", *_CASTS}:
        raise BackendError(f"no casts to {', '.join(sorted(odd))}", where="plan", fix="one of fp32, fp16, bf16")
    able = lowerable(view)
    if unknown := sorted(set(plan.nodes) - set(able)):
        raise BackendError(f"nodes {unknown} are not there or hold nothing to lower", where="plan")
    chosen = {name: plan.nodes.get(name, plan.default) for name in able}
    return {name: precision for name, precision in chosen.items() if precision != "fp32"}


def emulate_plan(model: onnx.ModelProto, plan: PrecisionPlan) -> onnx.ModelProto:
    """The graph with the inputs and outputs of every lowered node rounded, while all arithmetic stays in fp32.

    This is what an engine with fp32 accumulation computes, and it runs on any CPU. Names of tensors stay.

    Raises:
        BackendError: see `lowered_nodes`.
    """
    view = GraphView(model)
    precisions = lowered_nodes(view, plan)
    nodes: list[onnx.NodeProto] = []
    there: set[str] = set()

    def rounded(tensor: str, precision: str) -> str:
        made_by = view.producer.get(tensor)
        if made_by is not None and precisions.get(made_by.name) == precision:
            return tensor
        name = f"{tensor}__{precision}"
        if name not in there:
            there.add(name)
            nodes.extend(_round_trip(tensor, name, precision))
        return name

    for node in view.nodes.values():
        precision = precisions.get(node.name)
        if precision is None:
            nodes.append(node)
            continue
        lowered = _copy(node)
        for i in _castable(view, node, "inputs"):
            lowered.input[i] = rounded(node.input[i], precision)
        nodes.append(lowered)
        for i in _castable(view, node, "outputs"):
            lowered.output[i] = f"{node.output[i]}__exact"
            nodes.extend(_round_trip(lowered.output[i], node.output[i], precision))
    return _rebuilt(view, nodes, {})


def type_plan(model: onnx.ModelProto, plan: PrecisionPlan) -> onnx.ModelProto:
    """The strongly typed graph: lowered nodes compute on fp16 tensors, casts stand where precisions meet.

    Inputs and outputs of the graph stay in fp32. An fp16 tensor ``t`` is called ``t__fp16``.

    Raises:
        BackendError: see `lowered_nodes`; bf16, for which most operators have no type before opset 22.
    """
    view = GraphView(model)
    precisions = lowered_nodes(view, plan)
    if "bf16" in precisions.values():
        raise BackendError("a typed graph can hold fp16 only", where="plan", fix="use fp16, or emulate bf16")
    nodes: list[onnx.NodeProto] = []
    halves: dict[str, np.ndarray] = {}
    made: set[str] = set()

    def half(tensor: str) -> str:
        name = f"{tensor}__fp16"
        if tensor in view.constants:
            halves[name] = _to_half(view.constants[tensor])
        elif name not in made:
            made.add(name)
            nodes.append(helper.make_node("Cast", [tensor], [name], name=f"{name}_cast", to=TensorProto.FLOAT16))
        return name

    wide = _read_in_fp32(view, precisions)
    for node in view.nodes.values():
        if node.name not in precisions:
            nodes.append(node)
            continue
        lowered = _copy(node)
        for i in _castable(view, node, "inputs"):
            lowered.input[i] = half(node.input[i])
        nodes.append(lowered)
        for i in _castable(view, node, "outputs"):
            tensor = node.output[i]
            lowered.output[i] = f"{tensor}__fp16"
            made.add(lowered.output[i])
            if tensor in wide:
                nodes.append(helper.make_node("Cast", [lowered.output[i]], [tensor], name=f"{tensor}_cast", to=1))
    return _rebuilt(view, nodes, halves)


def write_typed(graph: Path, plan: PrecisionPlan, folder: Path) -> Path:
    """The typed graph of a file, written into ``folder`` and found again by content; see `type_plan`."""
    path = folder / f"typed-{digest(graph.stem, plan.default, dict(plan.nodes))}.onnx"
    if not path.is_file():
        with atomic_path(path) as temporary:
            onnx.save(type_plan(onnx.load(graph), plan), temporary)
    return path


def _read_in_fp32(view: GraphView, precisions: Mapping[str, str]) -> set[str]:
    """Tensors that something reads in fp32: outputs of the graph, nodes that stay, inputs of a wider type, branches."""
    wide = {entry.name for entry in view.model.graph.output}
    for node in view.nodes.values():
        lowered = _castable(view, node, "inputs") if node.name in precisions else []
        wide |= {name for i, name in enumerate(node.input) if i not in lowered}
        wide |= {name for attribute in node.attribute for name in _captured(attribute)}
    return wide


def _captured(attribute: onnx.AttributeProto) -> Iterator[str]:
    for graph in (attribute.g, *attribute.graphs):
        for node in graph.node:
            yield from node.input
            for inner in node.attribute:
                yield from _captured(inner)


def _castable(view: GraphView, node: onnx.NodeProto, side: str) -> list[int]:
    """Positions of fp32 tensors whose formal parameter allows fp16: the scales of Resize, for one, do not."""
    try:
        schema = onnx.defs.get_schema(node.op_type, view.opset, node.domain)
    except onnx.defs.SchemaError:
        return []
    names = node.input if side == "inputs" else node.output
    formal = schema.inputs if side == "inputs" else schema.outputs
    allowed = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
    kinds = [formal[min(i, len(formal) - 1)].type_str for i in range(len(names))]
    return [
        i
        for i, name in enumerate(names)
        if name and view.element_type(name) == TensorProto.FLOAT and "tensor(float16)" in allowed.get(kinds[i], ())
    ]


def _round_trip(source: str, target: str, precision: str) -> list[onnx.NodeProto]:
    narrow = f"{target}__narrow"
    return [
        helper.make_node("Cast", [source], [narrow], name=f"{target}_round", to=_CASTS[precision]),
        helper.make_node("Cast", [narrow], [target], name=f"{target}_widen", to=TensorProto.FLOAT),
    ]


def _to_half(value: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # infinity is what the engine would hold
        return value.astype(np.float16)


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    return copied


def _rebuilt(view: GraphView, nodes: list[onnx.NodeProto], constants: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """The model with other nodes and more constants, without those that nobody reads any more."""
    result = onnx.ModelProto()
    result.CopyFrom(view.model)
    graph = result.graph
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    read = {name for node in nodes for name in (*node.input, *(n for a in node.attribute for n in _captured(a)))}
    kept = [entry for entry in view.model.graph.initializer if entry.name in read]
    del graph.initializer[:]
    graph.initializer.extend([*kept, *(numpy_helper.from_array(value, name) for name, value in constants.items())])
    return result
