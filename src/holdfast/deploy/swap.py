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

__all__ = ["swap_weights", "take_template"]

_FAITHFUL_DB = 60.0  # scrambled weights may be ill-conditioned; a constant that was left behind gives below 20


def swap_weights(translated: onnx.ModelProto, model: nn.Module) -> onnx.ModelProto:
    """The graph with every initialiser that bears the name of a weight replaced by that weight of ``model``."""
    result = onnx.ModelProto()
    result.CopyFrom(translated)
    state = named_state(model)
    for initialiser in result.graph.initializer:
        if initialiser.name in state:
            value = state[initialiser.name].detach().cpu().contiguous().numpy()
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
    """A copy whose floating weights are shuffled, rescaled and raised; statistics stay positive."""
    result = copy.deepcopy(model)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in {id(t): t for t in named_state(result).values()}.values():
            if tensor.is_floating_point():
                flat = tensor.flatten()[torch.randperm(tensor.numel(), generator=draw)].view_as(tensor)
                scale = 0.5 + torch.rand(tensor.shape, generator=draw)
                tensor.copy_(flat * scale + 0.05 * torch.randn(tensor.shape, generator=draw).abs())
    return result
