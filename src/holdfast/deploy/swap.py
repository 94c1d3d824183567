"""Other weights in a translated graph: one slow translation serves all weights of an architecture."""

from __future__ import annotations

import copy
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from holdfast.core.store import atomic_path
from holdfast.deploy.fold import agreement_db
from holdfast.deploy.identity import named_state
from holdfast.deploy.nest import flatten
from holdfast.deploy.ort import open_session, run_session

__all__ = ["name_transposed", "swap_weights", "take_template"]

_TRANSPOSED = ".transposed"

_FAITHFUL_DB = 60.0  # scrambled weights may be ill-conditioned; a constant that was left behind gives below 20


def name_transposed(translated: onnx.ModelProto, model: nn.Module) -> None:
    """Rename constants that are a weight of ``model`` transposed to ``<weight>.transposed``, in place.

    The exporter turns a linear layer on more than two dimensions into a product with its transposed weight.
    """
    graph, state = translated.graph, named_state(model)
    matrices = {name: weight.detach().cpu().T for name, weight in state.items() if weight.ndim == 2}
    renamed: dict[str, str] = {}
    for constant in graph.initializer:
        if constant.name not in state and len(constant.dims) == 2:
            value = torch.from_numpy(numpy_helper.to_array(constant).copy())
            if same := [name for name, matrix in matrices.items() if torch.equal(matrix, value)]:
                renamed[constant.name] = constant.name = same[0] + _TRANSPOSED
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)


def swap_weights(translated: onnx.ModelProto, model: nn.Module) -> onnx.ModelProto:
    """The graph with every initialiser that bears the name of a weight replaced by that weight of ``model``."""
    result = onnx.ModelProto()
    result.CopyFrom(translated)
    state = {name: weight.detach().cpu() for name, weight in named_state(model).items()}
    state |= {name + _TRANSPOSED: weight.T for name, weight in state.items() if weight.ndim == 2}
    for initialiser in result.graph.initializer:
        if initialiser.name in state:
            value = state[initialiser.name].contiguous().numpy()
            initialiser.CopyFrom(numpy_helper.from_array(value, initialiser.name))
    return result


def take_template(translated: onnx.ModelProto, model: nn.Module, example: tuple[Tensor, ...], path: Path) -> bool:
    """Keep a translated graph as template for other weights, if it holds nothing else that depends on them.

    The exporter folds constants, so some may have been computed from weights. The proof is a trial: all weights are
    scrambled, and graph and eager model must still agree.

    Returns:
        Whether the template was written.
    """
    scrambled = _scrambled(model)
    session = open_session(swap_weights(translated, scrambled).SerializeToString(), threads=1)
    with torch.no_grad():
        expected, _ = flatten(scrambled(*example))
    if agreement_db(expected, run_session(session, example)) < _FAITHFUL_DB:
        return False
    with atomic_path(path) as temporary:
        onnx.save(translated, temporary)
    return True


def _scrambled(model: nn.Module) -> nn.Module:
    """A copy whose floating weights are shuffled and rescaled, zeros raised; statistics stay positive."""
    result = copy.deepcopy(model)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in {id(t): t for t in named_state(result).values()}.values():
            if tensor.is_floating_point():
                shuffled = tensor.flatten()[torch.randperm(tensor.numel(), generator=draw)].view_as(tensor)
                scale = 0.5 + torch.rand(tensor.shape, generator=draw)
                tensor.copy_(torch.where(shuffled == 0, 0.1 * scale, shuffled * scale))
    return result
