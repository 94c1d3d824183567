"""The affine layers of a graph, outputs first and with the batch normalisation after them, and which is which."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from holdfast.deploy.fold import adjacent_norms
from holdfast.deploy.graph import GraphView, attributes

__all__ = ["Layer", "Norm", "layers_of", "match_layers", "near", "put_right", "trained_layers"]

Floats = NDArray[np.float64]
_AFFINE = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_ROUNDING = 1e-6
"""Folding in another order changes the last digits of fp32 weights by less than this."""


@dataclass(frozen=True, kw_only=True)
class Norm:
    """A batch normalisation after a layer: float64 (outputs,) each, and the name of its node or module."""

    node: str
    gamma: Floats
    beta: Floats
    mean: Floats
    var: Floats
    eps: float

    @property
    def scale(self) -> Floats:
        """What it multiplies by."""
        scaled: Floats = self.gamma / np.sqrt(self.var + self.eps)
        return scaled


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution or matrix product with constant weights.

    Args:
        node, op_type: in the graph.
        constant: name of the weight in the graph.
        weight: float64 (outputs, ...), without the normalisation.
        bias: float64 (outputs,), zeros where there is none.
        norm: the batch normalisation that follows, if it is not folded (or, of a trained model, was not).
        bias_node: the Add that holds the bias of a MatMul; empty elsewhere.
        exact: weight and bias with the normalisation folded in, where a graph holds them so.
    """

    node: str
    op_type: str
    constant: str
    weight: Floats
    bias: Floats
    norm: Norm | None = None
    bias_node: str = ""
    exact: tuple[Floats, Floats] | None = None

    @property
    def folded(self) -> tuple[Floats, Floats]:
        """Weight and bias with the normalisation folded in."""
        if self.exact is not None:
            return self.exact
        if self.norm is None:
            return self.weight, self.bias
        scale = self.norm.scale
        return self.weight * _rows(scale, self.weight), self.norm.beta + scale * (self.bias - self.norm.mean)


def near(ours: Floats, theirs: Floats, tolerance: float = _ROUNDING) -> bool:
    """Whether two weights (outputs, ...) are the same up to rounding, measured by the largest of each output."""
    if ours.shape != theirs.shape:
        return False
    largest = np.abs(ours).reshape(len(ours), -1).max(axis=1, initial=0.0)
    allowed = tolerance * np.maximum(largest, tolerance * largest.max(initial=0.0))
    return bool((np.abs(ours - theirs).reshape(len(ours), -1).max(axis=1, initial=0.0) <= allowed).all())


def _rows(per_output: Floats, weight: Floats) -> Floats:
    return per_output.reshape(-1, *[1] * (weight.ndim - 1))


# --- reading them ---------------------------------------------------------------------------------------


def layers_of(view: GraphView) -> list[Layer]:
    """The layers of a graph in its order."""
    return list(_layers(view))


def trained_layers(view: GraphView, model: nn.Module, example: tuple[Tensor, ...]) -> list[Layer]:
    """Layers of a graph that `holdfast.deploy.export.export_onnx` made of ``model``, as they were before folding.

    Args:
        view: the exported graph.
        model: the trained model.
        example: positional inputs.
    """
    norms = adjacent_norms(model, example)
    return [_unfolded(layer, model, norms) for layer in layers_of(view)]


def _unfolded(layer: Layer, model: nn.Module, norms: dict[str, str]) -> Layer:
    name = layer.constant.removesuffix(".transposed").removesuffix(".weight")
    if name not in norms or layer.op_type == "ConvTranspose":
        return layer
    module, norm = model.get_submodule(name), model.get_submodule(norms[name])
    given = {key: value.detach().double().cpu().numpy() for key, value in norm.state_dict().items()}
    ones = np.ones_like(given["running_mean"])
    stored = {key: value.detach().double().cpu().numpy() for key, value in module.state_dict().items()}
    return replace(
        layer, weight=stored["weight"], bias=stored.get("bias", 0 * ones),
        exact=layer.folded,
        norm=Norm(node=norms[name], gamma=given.get("weight", ones), beta=given.get("bias", 0 * ones),
                  mean=given["running_mean"], var=given["running_var"], eps=float(norm.eps)),  # type: ignore[arg-type]  # nn.Module types attributes as tensors
    )  # fmt: skip


def _layers(view: GraphView) -> Iterator[Layer]:
    for node in view.nodes.values():
        if node.op_type not in _AFFINE or len(node.input) < 2 or (stored := _constant(view, node.input[1])) is None:
            continue
        weight = _outputs_first(node, stored)
        bias, bias_node, last = _bias(view, node, len(weight))
        yield Layer(node=node.name, op_type=node.op_type, constant=node.input[1], weight=weight, bias=bias,
                    norm=_norm(view, last), bias_node=bias_node)  # fmt: skip


def _constant(view: GraphView, tensor: str) -> Floats | None:
    """A constant, also where a graph transposes, widens or dequantises it before use."""
    if tensor in view.constants:
        value = view.constants[tensor]
        return value.astype(np.float64) if value.dtype.kind == "f" else None
    node = view.producer.get(tensor)
    if node is None:
        return None
    if node.op_type == "DequantizeLinear":
        return _dequantised(view, node)
    inner = _constant(view, node.input[0]) if node.op_type in ("Identity", "Cast", "Transpose") else None
    return inner.transpose(attributes(node).get("perm")) if inner is not None and node.op_type == "Transpose" else inner


def _dequantised(view: GraphView, node: onnx.NodeProto) -> Floats | None:
    parts = [view.constants.get(name) for name in node.input]
    if any(part is None for part in parts):
        return None
    stored, scale, *zero = (np.asarray(part, dtype=np.float64) for part in parts)
    shape = [1] * stored.ndim
    if scale.size > 1:
        shape[attributes(node).get("axis", 1)] = -1
    shifted = stored - zero[0].reshape(shape) if zero and zero[0].size > 1 else stored - (zero[0] if zero else 0.0)
    value: Floats = shifted * (scale.reshape(shape) if scale.size > 1 else scale)
    return value


def _outputs_first(node: onnx.NodeProto, weight: Floats) -> Floats:
    given = attributes(node)
    if node.op_type == "Gemm":
        scaled: Floats = given.get("alpha", 1.0) * (weight if given.get("transB", 0) else weight.T)
        return scaled
    if node.op_type == "ConvTranspose" and given.get("group", 1) == 1:
        return np.swapaxes(weight, 0, 1)
    return np.swapaxes(weight, 0, -1) if node.op_type == "MatMul" else weight


def _bias(view: GraphView, node: onnx.NodeProto, outputs: int) -> tuple[Floats, str, onnx.NodeProto]:
    """The bias, the Add that holds it if any, and the node after which the layer is complete."""
    if len(node.input) > 2:
        stored = _constant(view, node.input[2])
        scale = attributes(node).get("beta", 1.0) if node.op_type == "Gemm" else 1.0
        return (np.zeros(outputs) if stored is None else scale * stored.reshape(-1)), "", node
    readers = view.readers(node)
    if node.op_type == "MatMul" and len(readers) == 1 and readers[0].op_type == "Add":
        values = [value for name in readers[0].input if (value := _constant(view, name)) is not None]
        if values and values[0].size == outputs:
            return values[0].reshape(-1), readers[0].name, readers[0]
    return np.zeros(outputs), "", node


def _norm(view: GraphView, last: onnx.NodeProto) -> Norm | None:
    readers = view.readers(last)
    if len(readers) != 1 or readers[0].op_type != "BatchNormalization" or last.op_type == "ConvTranspose":
        return None
    parts = [_constant(view, name) for name in readers[0].input[1:5]]
    if any(part is None for part in parts):
        return None
    gamma, beta, mean, var = (np.asarray(part) for part in parts)
    eps = attributes(readers[0]).get("epsilon", 1e-5)
    return Norm(node=readers[0].name, gamma=gamma, beta=beta, mean=mean, var=var, eps=eps)


# --- which is which -------------------------------------------------------------------------------------


def match_layers(ours: Sequence[Layer], theirs: Sequence[Layer]) -> list[tuple[Layer, Layer]]:
    """Pairs of layers: by the name of the weight, then by its content, then by shape in the order of the graphs."""
    rules: tuple[Callable[[Layer, Layer], bool], ...] = (
        lambda a, b: a.constant == b.constant,
        lambda a, b: near(a.folded[0], b.folded[0], 1e-3),
        lambda a, b: True,
    )
    pairs: dict[int, tuple[Layer, Layer]] = {}
    taken: set[int] = set()
    for rule in rules:
        for i, layer in enumerate(ours):
            free = (
                j for j, other in enumerate(theirs) if j not in taken and _alike(layer, other) and rule(layer, other)
            )
            j = next(free, None) if i not in pairs else None
            if j is not None:
                pairs[i] = (layer, theirs[j])
                taken.add(j)
    return [pairs[i] for i in sorted(pairs)]


def _alike(a: Layer, b: Layer) -> bool:
    return a.weight.shape == b.weight.shape and (a.op_type in ("Gemm", "MatMul")) == (b.op_type in ("Gemm", "MatMul"))


# --- putting one right ----------------------------------------------------------------------------------


def put_right(model: onnx.ModelProto, layer: Layer, weight: Floats, bias: Floats) -> None:
    """Give a layer of ``model`` this folded weight and bias, in place; its normalisation becomes an identity."""
    nodes = {node.name: node for node in model.graph.node}
    node = nodes[layer.node]
    if node.op_type == "Gemm":
        kept = [entry for entry in node.attribute if entry.name not in ("alpha", "beta", "transB")]
        del node.attribute[:]
        node.attribute.extend([*kept, onnx.helper.make_attribute("transB", 1)])
    stored = weight
    if node.op_type == "MatMul" or (node.op_type == "ConvTranspose" and attributes(node).get("group", 1) == 1):
        stored = np.swapaxes(weight, 0, -1 if node.op_type == "MatMul" else 1)
    node.input[1] = _hold(model, f"{layer.node}__weight", stored)
    if node.op_type == "MatMul":
        if layer.bias_node:
            adding = nodes[layer.bias_node]
            adding.input[1 - list(adding.input).index(node.output[0])] = _hold(model, f"{layer.node}__bias", bias)
    else:
        del node.input[2:]
        node.input.append(_hold(model, f"{layer.node}__bias", bias))
    if layer.norm is not None:
        norm = nodes[layer.norm.node]
        norm.op_type = "Identity"
        del norm.input[1:], norm.attribute[:]


def _hold(model: onnx.ModelProto, name: str, value: Floats) -> str:
    constant = numpy_helper.from_array(np.ascontiguousarray(value, dtype=np.float32), name)
    model.graph.initializer.append(constant)
    return name
