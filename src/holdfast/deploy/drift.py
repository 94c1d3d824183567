"""Drift node by node: two graphs compared on the tensors they share, a few at a time, and looking is checked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper
from torch import Tensor

from holdfast.core.errors import BackendError
from holdfast.deploy.fold import agreement_db
from holdfast.deploy.graph import GraphView
from holdfast.deploy.ort import open_session, run_session

__all__ = ["Drift", "NodeDrift", "node_drift"]

MEMORY_BYTES = 2**28


@dataclass(frozen=True, kw_only=True)
class NodeDrift:
    """How far one tensor of two graphs is apart.

    Args:
        node, op_type: the node of the reference graph that makes it.
        tensor: its name in both graphs.
        snr_db: over all samples; minus infinity where one of the two is not finite.
        largest: largest absolute difference.
        drop_db: by how much ``snr_db`` is below the worst of the node's inputs: what this node added.
        broken: values that are finite in the reference and not in the other.
        peak: largest absolute value in the reference; above 65504 it does not fit fp16.
    """

    node: str
    op_type: str
    tensor: str
    snr_db: float
    largest: float
    drop_db: float
    broken: int
    peak: float


@dataclass(frozen=True, kw_only=True)
class Drift:
    """The profile of a graph.

    Args:
        nodes: in the order of the graph; nodes whose tensors the other graph lacks are left out.
        looking_db: agreement of the final outputs with and without the intermediate tensors asked for. Asking may stop
            fusions; where this is lower than the drift itself, the profile shows another computation than the one that
            ships.
        outputs_db: agreement of the final outputs of the two graphs.
    """

    nodes: tuple[NodeDrift, ...]
    looking_db: float
    outputs_db: float

    @property
    def trustworthy(self) -> bool:
        """Whether looking changed less than what was looked for."""
        return self.looking_db > self.outputs_db + 10

    def first(self, below_db: float) -> NodeDrift | None:
        """The first node whose outputs agree worse than ``below_db``: where the divergence starts."""
        return next((node for node in self.nodes if node.snr_db < below_db), None)

    def worst_drops(self) -> list[NodeDrift]:
        """Nodes by what they added, most first."""
        return sorted(self.nodes, key=lambda node: -node.drop_db)


def node_drift(
    reference: onnx.ModelProto, other: onnx.ModelProto, batches: Sequence[tuple[Tensor, ...]], *,
    optimise: bool = True, memory_bytes: int = MEMORY_BYTES,
) -> Drift:  # fmt: skip
    """Compare two graphs tensor by tensor.

    Tensors are asked for in portions that fit ``memory_bytes``, each portion in a run of its own, and only sums are
    kept; so a large graph takes more time, not more memory.

    Args:
        reference: the graph to trust, usually fp32.
        other: a graph with the same names: a quantised one, one with casts, one from a vendor.
        batches: inputs.
        optimise: run with the fusions of the runtime, as the deployed graph does.
        memory_bytes: for the intermediate tensors of one portion and one batch.

    Raises:
        BackendError: the graphs share no tensor.
    """
    view = GraphView(reference)
    shared = _shared(view, GraphView(other))
    if not shared:
        raise BackendError("the graphs share no tensor by name", where="node drift", fix="export both the same way")
    plain = [_Looking(model, [], optimise) for model in (reference, other)]
    unseen = [look(batches[0]) for look in plain]
    sums, looking = {tensor: _Sums() for tensor in shared}, math.inf
    for portion in _portions(view, shared, len(batches[0][0]), memory_bytes):
        looks = [_Looking(model, portion, optimise) for model in (reference, other)]
        for i, batch in enumerate(batches):
            seen = [look(batch) for look in looks]
            for tensor in portion:
                sums[tensor].add(seen[0][tensor].numpy(), seen[1][tensor].numpy())
            if i == 0:
                looking = min(looking, *(_agreement(before, after) for before, after in zip(unseen, seen, strict=True)))
    outputs = agreement_db(*(list(tensors.values()) for tensors in unseen))
    return Drift(nodes=tuple(_profile(view, shared, sums)), looking_db=looking, outputs_db=outputs)


class _Looking:
    """A session that gives its outputs and some tensors on the way, by name."""

    def __init__(self, model: onnx.ModelProto, tensors: Sequence[str], optimise: bool) -> None:
        asking = onnx.ModelProto()
        asking.CopyFrom(model)
        there = {entry.name for entry in model.graph.output}
        more = [tensor for tensor in tensors if tensor not in there]
        asking.graph.output.extend(helper.make_tensor_value_info(t, TensorProto.FLOAT, None) for t in more)
        self._session = open_session(bytes(asking.SerializeToString()), threads=1, optimise=optimise)
        self._names = [entry.name for entry in self._session.get_outputs()]

    def __call__(self, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return dict(zip(self._names, run_session(self._session, batch), strict=True))


def _agreement(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float:
    return agreement_db(list(before.values()), [after[name] for name in before])


def _shared(view: GraphView, other: GraphView) -> list[str]:
    """fp32 tensors that nodes of both graphs make, in the order of the first.

    A quantiser that merges Relu into a convolution gives its name to the convolution's output, so the kind of node
    has to agree as well, unless it only changes the type.
    """

    def same(tensor: str, node: onnx.NodeProto) -> bool:
        kinds = (node.op_type, "Cast", "DequantizeLinear")
        return tensor in other.producer and other.producer[tensor].op_type in kinds

    return [
        tensor
        for node in view.nodes.values()
        for tensor in node.output
        if same(tensor, node) and view.element_type(tensor) == other.element_type(tensor) == TensorProto.FLOAT
    ]


def _portions(view: GraphView, tensors: list[str], samples: int, memory_bytes: int) -> Iterator[list[str]]:
    portion: list[str] = []
    filled = 0
    for tensor in tensors:
        shape = view.shape(tensor) or ()
        size = 8 * math.prod(samples if dim is None else dim for dim in shape)  # in both graphs
        if portion and filled + size > memory_bytes:
            yield portion
            portion, filled = [], 0
        portion.append(tensor)
        filled += size
    yield portion


@dataclass
class _Sums:
    """Running sums over batches."""

    signal: float = 0.0
    noise: float = 0.0
    largest: float = 0.0
    peak: float = 0.0
    broken: int = 0

    def add(self, reference: np.ndarray, other: np.ndarray) -> None:
        r, o = reference.astype(np.float64).ravel(), other.astype(np.float64).ravel()
        finite = np.isfinite(r)
        self.broken += int((finite & ~np.isfinite(o)).sum())
        both = finite & np.isfinite(o)
        difference = r[both] - o[both]
        self.signal += float(r[finite] @ r[finite])
        self.noise += float(difference @ difference)
        self.largest = max(self.largest, float(np.abs(difference).max(initial=0.0)))
        self.peak = max(self.peak, float(np.abs(r[finite]).max(initial=0.0)))

    def snr_db(self) -> float:
        if self.broken or (self.noise and not self.signal):
            return -math.inf
        return 10 * math.log10(self.signal / self.noise) if self.noise else math.inf


def _profile(view: GraphView, shared: Sequence[str], sums: dict[str, _Sums]) -> Iterator[NodeDrift]:
    for tensor in shared:
        node, here = view.producer[tensor], sums[tensor]
        before = [sums[name].snr_db() for name in node.input if name in sums]
        # A graph input is equal in both; agreement is only known up to fp32 rounding, about 150 dB.
        best = min([150.0, *before])
        yield NodeDrift(
            node=node.name, op_type=node.op_type, tensor=tensor, snr_db=here.snr_db(), largest=here.largest,
            drop_db=max(best, -200.0) - max(min(here.snr_db(), 150.0), -200.0), broken=here.broken, peak=here.peak,
        )  # fmt: skip
