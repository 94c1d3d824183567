"""Patterns in graphs that lint rules look for."""

from __future__ import annotations

import numpy as np
import onnx

from holdfast.deploy.graph import GraphView

__all__ = ["is_ramp", "leads_to", "maximum_subtracted", "shrinks", "squares"]


def squares(view: GraphView, node: onnx.NodeProto) -> bool:
    """Whether a node squares its input."""
    by_itself = node.op_type == "Mul" and len(node.input) == 2 and node.input[0] == node.input[1]
    return by_itself or (node.op_type == "Pow" and view.scalar(node) == 2.0)


def leads_to(view: GraphView, node: onnx.NodeProto, kinds: tuple[str, ...], steps: int) -> bool:
    """Whether one of ``kinds`` comes after ``node`` within that many steps."""
    return steps > 0 and any(
        reader.op_type in kinds or leads_to(view, reader, kinds, steps - 1) for reader in view.readers(node)
    )


def maximum_subtracted(view: GraphView, node: onnx.NodeProto) -> bool:
    """Whether the input of a node is a difference from a maximum."""
    before = view.source(node)
    return before is not None and before.op_type == "Sub" and any(
        (made := view.producer.get(name)) is not None and made.op_type in ("ReduceMax", "Max", "TopK")
        for name in before.input
    )  # fmt: skip


def is_ramp(value: np.ndarray) -> bool:
    """Whether a constant counts in equal steps along some dimension, beyond what fp16 resolves finely."""
    if value.dtype not in (np.float32, np.float64) or value.size < 8 or np.abs(value).max(initial=0) <= 256:
        return False
    for axis in (axis for axis, size in enumerate(value.shape) if size >= 8):
        steps = np.diff(value.astype(np.float64), axis=axis)
        first = steps.take([0], axis=axis)
        if np.all(np.abs(first) > 0) and np.allclose(steps, first, rtol=1e-3, atol=0):
            return True
    return False


def shrinks(view: GraphView, node: onnx.NodeProto) -> bool:
    """Whether a resize makes one of the last two dimensions smaller, as far as that is known."""
    scales = view.constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if scales is not None and scales.size:
        return bool((scales[-2:] < 1).any())
    before, after = view.shape(node.input[0]), view.shape(node.output[0])
    if before is None or after is None:
        return False
    pairs = zip(before[-2:], after[-2:], strict=False)
    return any(a is not None and b is not None and b < a for a, b in pairs)
