"""Hazards that can be seen in a graph without running it: each with the node, the reason and the fix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto

from holdfast.deploy.graph import GraphView, attributes
from holdfast.deploy.patterns import is_ramp, leads_to, maximum_subtracted, shrinks, squares

__all__ = ["RULES", "Hazard", "lint"]

FP16_LARGEST = 65504.0
FP16_SMALLEST = 2.0**-24
FP16_SQUARE_ROOT = 255.9
"""The largest magnitude whose square fits fp16."""
STANDARD = ("", "ai.onnx", "com.microsoft")


@dataclass(frozen=True, kw_only=True)
class Hazard:
    """Something that makes a deployed model differ.

    Args:
        rule: name of the rule, a key of `RULES`.
        severity: ``error``: it will go wrong as soon as values are as named; ``warning``: it may.
        node: the node, or the graph input.
        reason: what happens and when.
        fix: what to do.
    """

    rule: str
    severity: Literal["error", "warning"]
    node: str
    reason: str
    fix: str


def lint(model: onnx.ModelProto, *, precision: str = "fp16") -> list[Hazard]:
    """All hazards of a graph, errors first, in the order of the graph.

    Args:
        model: a valid graph.
        precision: what it will run in; rules about the range of fp16 are asked for ``fp16`` alone.
    """
    view = GraphView(model)
    found = [hazard for rule in RULES.values() for hazard in rule(view) if precision == "fp16" or rule not in _FP16]
    order = {name: i for i, name in enumerate(view.nodes)}
    return sorted(found, key=lambda hazard: (hazard.severity, order.get(hazard.node, -1)))


# --- range and resolution of fp16 -----------------------------------------------------------------------


def decomposed_norm(view: GraphView) -> Iterator[Hazard]:
    """A square that is averaged and divided by: LayerNorm or RMSNorm in pieces."""
    for node in view.nodes.values():
        if squares(view, node) and any(
            reader.op_type in ("ReduceMean", "ReduceSum") and leads_to(view, reader, ("Sqrt", "Reciprocal", "Pow"), 3)
            for reader in view.readers(node)
        ):
            yield Hazard(
                rule="decomposed_norm", severity="error", node=node.name,
                reason=f"squares overflow fp16 above {FP16_SQUARE_ROOT}; the variance becomes infinite and the norm "
                "returns zeros, all finite, so that no check for NaN sees it",
                fix="export with opset 17 or later as one LayerNormalization node, or keep this node up to the square "
                "root in fp32",
            )  # fmt: skip


def decomposed_softmax(view: GraphView) -> Iterator[Hazard]:
    """An exponential that is summed, without the maximum subtracted first."""
    for node in view.nodes.values():
        summed = any(reader.op_type in ("ReduceSum", "ReduceMean") for reader in view.readers(node))
        if node.op_type == "Exp" and summed and not maximum_subtracted(view, node):
            yield Hazard(
                rule="decomposed_softmax", severity="error", node=node.name,
                reason="exp overflows fp16 above 11.09, and then all shares are zero or NaN",
                fix="use softmax or logsumexp, which subtract the maximum, or keep this node in fp32",
            )  # fmt: skip


def large_coordinates(view: GraphView) -> Iterator[Hazard]:
    """Constants that count pixels up to where fp16 has less than a quarter of a pixel."""
    for name, value in view.constants.items():
        if not is_ramp(value):
            continue
        largest = float(np.abs(value).max())
        spacing = float(np.spacing(np.float16(largest)))
        for node in view.consumers.get(name, []):
            if node.op_type in ("Add", "Sub", "Mul", "Concat", "GridSample", "MatMul"):
                yield Hazard(
                    rule="large_coordinates", severity="error", node=node.name,
                    reason=f"counts up to {largest:g} in fp16, where neighbouring numbers are {spacing:g} apart",
                    fix="let the network give offsets or positions in 0..1 and scale after it, in fp32",
                )  # fmt: skip


def constants_out_of_range(view: GraphView) -> Iterator[Hazard]:
    """Constants that fp16 turns into infinity or zero."""
    for name, value in view.constants.items():
        if value.dtype not in (np.float32, np.float64) or not value.size or not view.consumers.get(name):
            continue
        finite = np.abs(value[np.isfinite(value)])
        node = view.consumers[name][0].name
        if finite.size and finite.max() > FP16_LARGEST:
            yield Hazard(
                rule="constants_out_of_range", severity="error", node=node,
                reason=f"constant {name} holds {finite.max():g}, which is infinite in fp16",
                fix=f"rescale it, or use at most {FP16_LARGEST:g} as the large number of a mask",
            )  # fmt: skip
        elif value.size == 1 and 0 < float(finite.sum()) < FP16_SMALLEST:
            yield Hazard(
                rule="constants_out_of_range", severity="error", node=node,
                reason=f"constant {name} is {float(finite.sum()):g}, which is zero in fp16: a division that it "
                "protects is not protected",
                fix="use 1e-5 or larger, or keep this node in fp32",
            )  # fmt: skip


# --- runtimes that differ -------------------------------------------------------------------------------


def resize_modes(view: GraphView) -> Iterator[Hazard]:
    """Resize in a mode that runtimes implement differently, or that shrinks without antialiasing."""
    for node in view.nodes.values():
        if node.op_type not in ("Resize", "Upsample"):
            continue
        given = attributes(node)
        mode, grid = given.get("mode", "nearest"), given.get("coordinate_transformation_mode", "half_pixel")
        if node.op_type == "Upsample" or grid in ("asymmetric", "tf_crop_and_resize", "pytorch_half_pixel"):
            yield Hazard(
                rule="resize_modes", severity="warning", node=node.name,
                reason=f"grid {grid!r}: runtimes have shipped other defaults, which moves the whole image",
                fix="use half_pixel, and compare this node's output on the target",
            )  # fmt: skip
        if mode == "nearest" and given.get("nearest_mode", "round_prefer_floor") not in ("floor", "round_prefer_floor"):
            yield Hazard(
                rule="resize_modes", severity="warning", node=node.name,
                reason=f"nearest_mode {given['nearest_mode']!r} is rounded differently by runtimes",
                fix="use floor, or interpolate linearly",
            )  # fmt: skip
        if shrinks(view, node) and mode != "nearest" and not given.get("antialias", 0):
            yield Hazard(
                rule="resize_modes", severity="warning", node=node.name,
                reason="shrinks without antialiasing; training pipelines usually antialias",
                fix="interpolate(..., antialias=True), opset 18 or later, if training did",
            )  # fmt: skip


def integers_of_64_bits(view: GraphView) -> Iterator[Hazard]:
    """Inputs and arithmetic in int64, which several runtimes compute in 32 bits."""
    initialisers = {entry.name for entry in view.model.graph.initializer}
    for entry in view.model.graph.input:
        if entry.type.tensor_type.elem_type == TensorProto.INT64 and entry.name not in initialisers:
            yield Hazard(
                rule="integers_of_64_bits", severity="warning", node=entry.name,
                reason="an int64 input is narrowed to 32 bits by runtimes without int64",
                fix="take int32 and widen inside the model",
            )  # fmt: skip
    for node in view.nodes.values():
        for name in node.input:
            value = view.constants.get(name)
            if value is None or value.dtype != np.int64 or node.op_type in ("Slice", "Gather", "Reshape", "Expand"):
                continue
            if value.size and (value.max() > 2**31 - 1 or value.min() < -(2**31)):
                yield Hazard(
                    rule="integers_of_64_bits", severity="error", node=node.name,
                    reason=f"constant {name} does not fit 32 bits", fix="use a smaller number or float",
                )  # fmt: skip


def unfolded_batchnorm(view: GraphView) -> Iterator[Hazard]:
    """A batch normalisation that could stand in the weights before it, or that is in training mode."""
    for node in view.nodes.values():
        if node.op_type != "BatchNormalization":
            continue
        before = view.source(node)
        if attributes(node).get("training_mode", 0):
            yield Hazard(
                rule="unfolded_batchnorm", severity="error", node=node.name,
                reason="is in training mode: outputs depend on the other samples of the batch",
                fix="call model.eval() before the export",
            )  # fmt: skip
        elif before is not None and before.op_type in ("Conv", "ConvTranspose", "Gemm"):
            yield Hazard(
                rule="unfolded_batchnorm", severity="warning", node=node.name,
                reason=f"is not folded into {before.name}: runtimes fold it before they round weights, so that "
                "weights measured here are not those that run",
                fix="export with holdfast, which folds first, or with holdfast.deploy.fold.fold_batchnorm",
            )  # fmt: skip


def exporter_fallbacks(view: GraphView) -> Iterator[Hazard]:
    """What an exporter writes when it has no operator: foreign domains, control flow, chains of gathers."""
    for node in view.nodes.values():
        if node.domain not in STANDARD:
            yield Hazard(
                rule="exporter_fallbacks", severity="error", node=node.name,
                reason=f"operator {node.domain}::{node.op_type} exists in no runtime by default",
                fix="replace the layer by one that has an ONNX operator",
            )  # fmt: skip
        elif node.op_type in ("If", "Loop", "Scan"):
            yield Hazard(
                rule="exporter_fallbacks", severity="warning", node=node.name,
                reason="control flow stops fusion, and its branches are seldom quantised or measured",
                fix="make shapes static, or move the decision out of the model",
            )  # fmt: skip
        elif node.op_type == "GatherND":
            yield Hazard(
                rule="exporter_fallbacks", severity="warning", node=node.name,
                reason="nearest-exact or area interpolation, or adaptive pooling by a factor that is not whole, "
                "was written as gathers: slow, and fragile in engines",
                fix="use bilinear with antialias, or a pooling by a whole factor",
            )  # fmt: skip


def fixed_batch(view: GraphView) -> Iterator[Hazard]:
    """An input whose first dimension is a number."""
    initialisers = {entry.name for entry in view.model.graph.initializer}
    for entry in view.model.graph.input:
        dims = entry.type.tensor_type.shape.dim
        if entry.name not in initialisers and dims and dims[0].HasField("dim_value"):
            yield Hazard(
                rule="fixed_batch", severity="warning", node=entry.name,
                reason=f"batches of {dims[0].dim_value} only: the exporter fixes a batch of one silently",
                fix="export with a batch of two and a dynamic first dimension",
            )  # fmt: skip


def old_opset(view: GraphView) -> Iterator[Hazard]:
    """An opset in which norms have to be written in pieces and nothing antialiases."""
    if 0 < view.opset < 18:
        yield Hazard(
            rule="old_opset", severity="warning", node="",
            reason=f"opset {view.opset}: LayerNormalization is one node from 17 on, Resize antialiases from 18 on",
            fix="export with opset 18 or later",
        )  # fmt: skip


RULES: dict[str, Callable[[GraphView], Iterator[Hazard]]] = {
    rule.__name__: rule
    for rule in (
        decomposed_norm, decomposed_softmax, large_coordinates, constants_out_of_range, resize_modes,
        integers_of_64_bits, unfolded_batchnorm, exporter_fallbacks, fixed_batch, old_opset,
    )
}  # fmt: skip
_FP16 = (decomposed_norm, decomposed_softmax, large_coordinates, constants_out_of_range)
