"""PyTorch to ONNX: batch normalisation folded, the batch dimension really dynamic, checked against the eager model."""

from __future__ import annotations

import inspect
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import torch
from torch import Tensor, nn

from holdfast.core.errors import BackendError
from holdfast.core.store import atomic_path
from holdfast.deploy.floor import fp64_floor_db
from holdfast.deploy.fold import agreement_db, fold_batchnorm
from holdfast.deploy.identity import architecture_key, digest, versions, weights_key
from holdfast.deploy.nest import flatten
from holdfast.deploy.ort import open_session, run_session
from holdfast.deploy.swap import name_transposed, swap_weights, take_template

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

__all__ = ["LAYOUT", "OPSET", "Graph", "check_example", "export_onnx", "quiet", "reason_of"]

LAYOUT = "holdfast.layout"
"""Key of the graph's metadata that tells how its outputs nest, see `holdfast.deploy.nest.unflatten`."""
OPSET = 18  # the first in which Resize can antialias; norms have been single nodes since 17
_FAITHFUL_DB = 80.0  # fp32 rounding leaves 100 dB and more; 80 dB is an error of one part in ten thousand
_WRONG_DB = 40.0  # below, even an ill-conditioned model has been exported wrongly
_SLACK_DB = 10.0  # another order of the same sums may err that much more than eager fp32 does against fp64
_NOISY = ("torch.onnx._internal.exporter", "onnxscript", "onnx_ir")
_PRIVATE = ("pkg.torch.onnx.stack_trace", "pkg.torch.onnx.fx_node")  # paths and code of the exporting machine


@dataclass(frozen=True, kw_only=True)
class Graph:
    """An exported model on disk.

    Args:
        path: the ``.onnx`` file; its metadata say how outputs nest (`LAYOUT`).
        key: content hash: weights, architecture, versions.
        folded: batch normalisations that stand in the weights of the layer before them.
    """

    path: Path
    key: str
    folded: tuple[str, ...]


def export_onnx(model: nn.Module, example: tuple[Tensor, ...], folder: Path) -> Graph:
    """Write ``model`` as ``folder/graph-<key>.onnx`` and prove that it computes the same.

    The graph has opset 18, its inputs are named like the arguments of ``forward`` and its first dimensions are
    dynamic: it is run with another batch size than the example's and compared with the eager model. Weights of an
    architecture exported before into ``folder`` are put into that graph instead of translating anew (seconds less);
    a graph with the same key is not written again. Both are checked against the eager model like a fresh export.

    Args:
        model: any module; not changed, run in eval mode.
        example: positional inputs with two samples or more; a batch of one would fix the batch size.
        folder: one folder for all graphs of a run, so that they can share translations.

    Returns:
        The graph.

    Raises:
        BackendError: a batch of one, operators without translation, control flow that depends on values or on the
            batch size, or a graph that computes something else.
    """
    check_example(example)
    folded, names = fold_batchnorm(model, example)
    architecture = digest(architecture_key(folded, example), OPSET, versions("torch", "onnx", "onnxscript"))
    key = digest(architecture, weights_key(folded))
    graph = Graph(path=folder / f"graph-{key}.onnx", key=key, folded=names)
    if graph.path.is_file() and _faithful(_agreement(graph.path, folded, example), folded, example):
        return graph
    template = folder / f"template-{architecture}.onnx"
    if template.is_file():
        swapped = swap_weights(onnx.load(template), folded)
        if _faithful(_agreement(swapped.SerializeToString(), folded, example), folded, example):
            return _write(swapped, graph)
    translated = _translate(folded, example)
    agreement = _agreement(translated.SerializeToString(), folded, example)
    if not _faithful(agreement, folded, example):
        raise BackendError(
            f"the exported graph departs from the eager model: {agreement:.0f} dB, expected {_FAITHFUL_DB:.0f} or more",
            where="export",
            fix="look for values computed in Python inside forward: the exporter keeps those of the example",
        )
    take_template(translated, folded, example, template)
    return _write(translated, graph)


def check_example(example: tuple[Tensor, ...]) -> None:
    """Refuse an example that does not show what a batch is.

    Raises:
        BackendError: inputs without a batch dimension in common, or a batch of one.
    """
    if not example or any(x.ndim == 0 or x.shape[0] != example[0].shape[0] for x in example):
        raise BackendError(
            f"inputs of shapes {[tuple(x.shape) for x in example]} share no batch dimension", where="export"
        )
    if example[0].shape[0] < 2:
        raise BackendError(
            "an example of one sample fixes the batch size", where="export", fix="give two samples or more"
        )


def _translate(model: nn.Module, example: tuple[Tensor, ...]) -> onnx.ModelProto:
    names = _argument_names(model, len(example))
    with quiet():
        try:
            program = torch.onnx.export(
                model, example, dynamo=True, opset_version=OPSET, input_names=names, verbose=False,
                dynamic_shapes=tuple({0: torch.export.Dim.DYNAMIC} for _ in example),
            )  # fmt: skip
        except Exception as error:  # the exporter raises whatever its passes raise
            raise BackendError(
                f"{type(model).__name__} cannot be exported to ONNX: {reason_of(error)}", where="export", fix=_HINT
            ) from error
    assert program is not None
    translated: onnx.ModelProto = program.model_proto
    for node in translated.graph.node:
        kept = [entry for entry in node.metadata_props if entry.key not in _PRIVATE]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    with torch.no_grad():
        _, layout = flatten(model(*example))
    name_transposed(translated, model)
    translated.metadata_props.append(onnx.StringStringEntryProto(key=LAYOUT, value=json.dumps(layout)))
    return translated


_HINT = "shapes must not fix the batch size and control flow must not depend on values"


def _argument_names(model: nn.Module, n: int) -> list[str]:
    names = list(inspect.signature(model.forward).parameters)[:n]
    return names if len(names) == n else [f"input_{i}" for i in range(n)]


def reason_of(error: BaseException) -> str:
    """The last cause's first line: the exporter wraps it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Deprecation and registration messages inside the exporter say nothing about the model."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _write(translated: onnx.ModelProto, graph: Graph) -> Graph:
    with atomic_path(graph.path) as path:
        onnx.save(translated, path)
    return graph


def _faithful(agreement_db: float, model: nn.Module, example: tuple[Tensor, ...]) -> bool:
    """Whether a graph computes what ``model`` does, up to the rounding of the model itself where that is large."""
    if agreement_db >= _FAITHFUL_DB or agreement_db < _WRONG_DB:
        return agreement_db >= _FAITHFUL_DB
    return agreement_db >= fp64_floor_db(model, example) - _SLACK_DB


def _agreement(source: Path | bytes, model: nn.Module, example: tuple[Tensor, ...]) -> float:
    """Worst agreement in dB over the example and one more sample than it has; minus infinity if it does not run."""
    try:
        session = open_session(source, threads=1)
        return min(_compare(session, model, inputs) for inputs in (example, _one_more(example)))
    except BackendError:
        return float("-inf")


def _one_more(example: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.cat([x, x[:1]]) for x in example)


def _compare(session: InferenceSession, model: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    with torch.no_grad():
        expected, _ = flatten(model(*inputs))
    got = run_session(session, inputs)
    same_shapes = [x.shape for x in expected] == [x.shape for x in got]
    return agreement_db(expected, got) if same_shapes else float("-inf")
