"""An ONNX file from elsewhere, run as it is: the graph that really ships, whoever exported it."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import onnx
import torch
from onnx import TensorProto
from torch import Tensor, nn

from holdfast.core.contracts import Artefact, Availability, PrecisionPlan
from holdfast.core.errors import BackendError, HoldfastError
from holdfast.core.store import atomic_path
from holdfast.deploy.export import LAYOUT
from holdfast.deploy.graph import load_graph
from holdfast.deploy.identity import digest
from holdfast.deploy.nest import flatten
from holdfast.deploy.ort import open_session, run_session
from holdfast.deploy.ort_session import OrtSession
from holdfast.deploy.plans import require

__all__ = ["Graph", "stored_precision"]


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Runs a given ONNX file on ONNX Runtime's CPU provider; the model only tells what its outputs mean.

    The file may come from anybody, see `holdfast.deploy.graph.load_graph`. Its inputs and outputs must be those of
    the model, in the same order.

    Args:
        path: the file.
        threads: of one operator. Default 1.
    """

    path: str = ""
    threads: int = 1
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "int8")

    def probe(self) -> Availability:
        """Whether the file can be read, and in what precision it stores its numbers."""
        try:
            stored = stored_precision(self._load())
        except HoldfastError as error:
            return Availability(ok=False, reason=str(error))
        worth = "upcast" if stored == "fp16" else "native"
        return Availability(ok=True, reason=Path(self.path).name, precisions={stored: worth})

    def _load(self) -> onnx.ModelProto:
        if not self.path:
            raise BackendError("no file given", where="graph", fix="set its option `path`")
        return load_graph(Path(self.path))

    def prepare(
        self, model: nn.Module, example: tuple[Tensor, ...], plan: PrecisionPlan,
        calibration: Iterable[tuple[Tensor, ...]] | None, folder: Path,
    ) -> Artefact:  # fmt: skip
        """Check that the file takes the example and gives outputs of the model's shapes.

        Raises:
            InputError: the file is missing, damaged or hostile.
            BackendError: another precision, or inputs and outputs that are not the model's.
        """
        require(plan, self.precisions, where="graph")
        loaded = self._load()
        require(plan, (stored_precision(loaded),), where="graph")
        with torch.no_grad():
            expected, layout = flatten(copy.deepcopy(model).eval()(*example))
        given = run_session(open_session(Path(self.path), threads=self.threads), example)
        shapes, wanted = ([list(x.shape) for x in outputs] for outputs in (given, expected))
        if shapes != wanted:
            raise BackendError(f"gives outputs of shapes {shapes}, the model {wanted}", where=self.path)
        key = digest("graph", loaded.SerializeToString().hex())
        path = folder / f"foreign-{key}.onnx"
        kept = [entry for entry in loaded.metadata_props if entry.key != LAYOUT]
        del loaded.metadata_props[:]
        loaded.metadata_props.extend([*kept, onnx.StringStringEntryProto(key=LAYOUT, value=json.dumps(layout))])
        with atomic_path(path) as temporary:
            onnx.save(loaded, temporary)
        made = f"{loaded.producer_name or 'unknown'} {loaded.producer_version}".strip()
        return Artefact(
            backend="graph", plan=plan, key=key, path=path, notes=(f"{Path(self.path).name}, made by {made}",)
        )

    def load(self, artefact: Artefact) -> OrtSession:
        """Open the graph."""
        assert artefact.path is not None, "a graph is a file"
        return OrtSession(artefact.path, precision=artefact.plan.default, threads=self.threads)


def stored_precision(model: onnx.ModelProto) -> str:
    """``int8`` for a quantised graph, ``fp16`` where weights are halves, else ``fp32``."""
    if any(node.op_type in ("QuantizeLinear", "QLinearConv", "MatMulInteger") for node in model.graph.node):
        return "int8"
    sizes = {TensorProto.FLOAT: 0, TensorProto.FLOAT16: 0}
    for entry in model.graph.initializer:
        if entry.data_type in sizes:
            sizes[entry.data_type] += 1
    return "fp16" if sizes[TensorProto.FLOAT16] > sizes[TensorProto.FLOAT] else "fp32"
