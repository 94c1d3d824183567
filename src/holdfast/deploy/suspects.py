"""What differs between a graph from elsewhere and the export of the trained model, and how to put it right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx
from torch import Tensor, nn

from holdfast.deploy.differences import Kind, layer_change
from holdfast.deploy.graph import GraphView
from holdfast.deploy.identity import named_state
from holdfast.deploy.layers import Layer, layers_of, match_layers, put_right, trained_layers
from holdfast.deploy.settings import Setting, other_settings

__all__ = ["Suspect", "joined", "suspects_of"]

_MANY = 3
"""From so many layers with weights of their own on it is another set of weights, not a layer."""


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """Something that differs, and may be without effect.

    Args:
        kind: see `holdfast.deploy.differences.Kind`.
        nodes: where in the other graph, in its order.
        detail: in words, at the first of them.
        put_right: edits of the other graph, in place, that make it compute what the reference does.
    """

    kind: Kind
    nodes: tuple[str, ...]
    detail: str
    put_right: tuple[Callable[[onnx.ModelProto], None], ...]


def suspects_of(
    model: nn.Module, reference: onnx.ModelProto, other: onnx.ModelProto, inputs: tuple[Tensor, ...]
) -> list[Suspect]:
    """Everything that differs: layers one suspect a class, other weights with them, other settings one by one.

    Args:
        model: the trained model, in eval mode.
        reference: its export.
        other: a valid graph.
        inputs: positional inputs.
    """
    ours, theirs = GraphView(reference), GraphView(other)
    pairs = match_layers(trained_layers(ours, model, inputs), layers_of(theirs))
    held = {node for _, layer in pairs for node in (layer.node, layer.bias_node, layer.norm.node if layer.norm else "")}
    found = [suspect for pair in pairs if (suspect := _of_layer(*pair))]
    settings = [_of_setting(setting) for setting in other_settings(ours, theirs, held, named_state(model))]
    found += [suspect for suspect in settings if suspect.kind == "weights"]
    order = {name: i for i, name in enumerate(theirs.nodes)}
    grouped: dict[Kind, list[Suspect]] = {}
    for suspect in sorted(found, key=lambda suspect: order.get(suspect.nodes[0], -1)):
        grouped.setdefault(suspect.kind, []).append(suspect)
    layers = [joined(kind, members) for kind, members in grouped.items()]
    return layers + [suspect for suspect in settings if suspect.kind != "weights"]


def _of_layer(ours: Layer, theirs: Layer) -> Suspect | None:
    change = layer_change(ours, theirs)
    if change is None:
        return None
    weight, bias = ours.folded

    def mend(model: onnx.ModelProto) -> None:
        put_right(model, theirs, weight, bias)

    return Suspect(kind=change.kind, nodes=(change.node,), detail=change.detail, put_right=(mend,))


def _of_setting(setting: Setting) -> Suspect:
    return Suspect(
        kind=setting.kind, nodes=(setting.node,), detail=setting.detail, put_right=(setting.put_right,)
    )  # fmt: skip


def joined(kind: Kind, members: Sequence[Suspect], detail: str = "") -> Suspect:
    """Several suspects as one; weights of many layers become another set of weights."""
    nodes = tuple(dict.fromkeys(node for member in members for node in member.nodes))
    edits = tuple(edit for member in members for edit in member.put_right)
    if kind == "weights" and len(nodes) >= _MANY:
        kind = "other_weights"
        detail = f"{len(nodes)} layers hold other weights: another checkpoint, or raw ones instead of an average"
    return Suspect(kind=kind, nodes=nodes, detail=detail or members[0].detail, put_right=edits)
