"""Nodes of two graphs side by side: attributes and constants that differ, apart from the weights of layers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper

from holdfast.deploy.differences import Kind
from holdfast.deploy.graph import GraphView, attributes
from holdfast.deploy.patterns import leads_to

__all__ = ["Setting", "other_settings", "pair_nodes"]

_NORMS = ("BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization")
_PLUMBING = frozenset(
    [
        "Cast",
        "Concat",
        "ConstantOfShape",
        "Expand",
        "Flatten",
        "Gather",
        "ReduceMean",
        "ReduceSum",
        "Shape",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
    ]
)
"""Exporters move axes about in their own ways; such nodes are compared only where they bear the same name."""
_TINY = 0.1
"""A constant below this that is added on the way to a square root protects a division: it is an epsilon."""
_SAME = 1e-6
_STATISTICS = (3, 4)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Something that is set otherwise in a node of the other graph.

    Args:
        kind: see `holdfast.deploy.differences.Kind`.
        node: in the other graph.
        detail: in words.
        put_right: sets it as in the reference, in place.
    """

    kind: Kind
    node: str
    detail: str
    put_right: Callable[[onnx.ModelProto], None]


def other_settings(
    ours: GraphView, theirs: GraphView, layers: Collection[str], trained: Collection[str]
) -> Iterator[Setting]:
    """All that differs between paired nodes; some of it may be without effect.

    Args:
        ours: the graph to trust.
        theirs: the other.
        layers: nodes of the other graph whose weights are compared elsewhere; their attributes are compared here.
        trained: names of constants of ``ours`` that are weights of the model.
    """
    for ref, node in pair_nodes(ours, theirs):
        if ref.name == node.name or node.op_type not in _PLUMBING:
            yield from _attributes(ours, ref, theirs, node)
        if node.name not in layers:
            yield from _constants(ours, ref, theirs, node, trained)


def pair_nodes(ours: GraphView, theirs: GraphView) -> list[tuple[NodeProto, NodeProto]]:
    """Nodes of the same operator: by name, by a constant both call the same, the others in the order of the graphs."""
    pairs = [(node, theirs.nodes[name]) for name, node in ours.nodes.items()
             if name in theirs.nodes and theirs.nodes[name].op_type == node.op_type]  # fmt: skip
    paired = {node.name for pair in pairs for node in pair}
    for constant in ours.constants:
        readers = [view.consumers.get(constant, []) for view in (ours, theirs)]
        if all(len(nodes) == 1 and nodes[0].name not in paired for nodes in readers):
            (ref,), (node,) = readers
            if ref.op_type == node.op_type:
                pairs.append((ref, node))
                paired |= {ref.name, node.name}
    left, right = ([n for n in view.nodes.values() if n.name not in paired] for view in (ours, theirs))
    matcher = SequenceMatcher(a=[n.op_type for n in left], b=[n.op_type for n in right], autojunk=False)
    for block in matcher.get_matching_blocks():
        pairs += zip(left[block.a : block.a + block.size], right[block.b : block.b + block.size], strict=True)
    return pairs


# --- attributes -----------------------------------------------------------------------------------------


def _attributes(ours: GraphView, ref: NodeProto, theirs: GraphView, node: NodeProto) -> Iterator[Setting]:
    here, there = _with_defaults(ours, ref), _with_defaults(theirs, node)
    odd = {name: (here.get(name), there.get(name)) for name in sorted({*here, *there})
           if not _equal(here.get(name), there.get(name))}  # fmt: skip
    if not odd:
        return
    kind: Kind = "attribute"
    if node.op_type in ("Resize", "Upsample"):
        kind = "resize"
    elif "epsilon" in odd:
        kind = "epsilon"
    words = ", ".join(f"{name} {_word(b)} instead of {_word(a)}" for name, (a, b) in odd.items())

    def put_right(model: onnx.ModelProto) -> None:
        target = next(n for n in model.graph.node if n.name == node.name)
        del target.attribute[:]
        target.attribute.extend(ref.attribute)

    yield Setting(kind=kind, node=node.name, detail=f"{node.op_type}: {words}", put_right=put_right)


def _with_defaults(view: GraphView, node: NodeProto) -> dict[str, Any]:
    """Attributes that are numbers or words, with the values they have when they are left out."""
    try:
        known = onnx.defs.get_schema(node.op_type, view.opset, node.domain).attributes
    except onnx.defs.SchemaError:
        known = {}
    unset = {name: onnx.helper.get_attribute_value(entry.default_value) for name, entry in known.items()
             if entry.default_value.type != onnx.AttributeProto.UNDEFINED}  # fmt: skip
    values = {**{name: v.decode() if isinstance(v, bytes) else v for name, v in unset.items()}, **attributes(node)}
    return {name: value for name, value in values.items() if isinstance(value, int | float | str | list)}


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= _SAME * max(abs(a), abs(b))
    return bool(a == b)


def _word(value: Any) -> str:
    return "unset" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


# --- constants ------------------------------------------------------------------------------------------


def _constants(
    ours: GraphView, ref: NodeProto, theirs: GraphView, node: NodeProto, trained: Collection[str]
) -> Iterator[Setting]:
    if len(ref.input) != len(node.input):
        return
    for i, (a, b) in enumerate(zip(ref.input, node.input, strict=True)):
        if a not in ours.constants or b not in theirs.constants:
            continue
        here, there = ours.constants[a], theirs.constants[b]
        if here.shape != there.shape or here.dtype.kind != there.dtype.kind or not here.size or _close(here, there):
            continue
        kind, words = _constant_kind(theirs, node, i, here, there)
        kind = "weights" if kind == "constant" and a in trained else kind
        yield Setting(kind=kind, node=node.name, detail=f"{node.op_type}: {words}",
                      put_right=_setter(node.name, i, here, there.dtype))  # fmt: skip


def _close(here: np.ndarray, there: np.ndarray) -> bool:
    if here.dtype.kind != "f":
        return bool((here == there).all())
    allowed = _SAME * np.abs(here).max()
    return bool((np.abs(here.astype(np.float64) - there) <= allowed).all())


def _constant_kind(view: GraphView, node: NodeProto, i: int, here: np.ndarray, there: np.ndarray) -> tuple[Kind, str]:
    if node.op_type == "BatchNormalization" and i in _STATISTICS:
        return "batchnorm", f"the running {'mean' if i == _STATISTICS[0] else 'variance'} is another"
    if node.op_type in _NORMS:
        return "weights", f"scale or shift differs by up to {_largest(here, there):.3g}"
    if here.size == 1:
        a, b = float(here.reshape(())), float(there.reshape(()))
        guards = 0 < a < _TINY and node.op_type in ("Add", "Max", "Clip")
        if guards and leads_to(view, node, ("Sqrt", "Reciprocal", "Pow", "Div"), 2):
            return "epsilon", f"epsilon {b:.3g} instead of {a:.3g}"
        return "constant", f"constant {b:.6g} instead of {a:.6g}"
    kind: Kind = "resize" if node.op_type in ("Resize", "Upsample") else "constant"
    return kind, f"a constant of shape {list(here.shape)} differs by up to {_largest(here, there):.3g}"


def _largest(here: np.ndarray, there: np.ndarray) -> float:
    return float(np.abs(here.astype(np.float64) - there).max())


def _setter(name: str, i: int, value: np.ndarray, dtype: np.dtype[Any]) -> Callable[[onnx.ModelProto], None]:
    def put_right(model: onnx.ModelProto) -> None:
        target = next(node for node in model.graph.node if node.name == name)
        # A constant of its own: other nodes may read the one that is there.
        target.input[i] = f"{name}__input_{i}"
        model.graph.initializer.append(numpy_helper.from_array(value.astype(dtype), target.input[i]))

    return put_right
