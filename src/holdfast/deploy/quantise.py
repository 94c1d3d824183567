"""Static int8 quantisation of ONNX graphs (QDQ)."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import onnx
from torch import Tensor

from holdfast.core.contracts import PrecisionPlan
from holdfast.core.errors import BackendError
from holdfast.core.options import call
from holdfast.core.store import atomic_path
from holdfast.deploy.export import quiet
from holdfast.deploy.identity import digest, tensors_key, versions
from holdfast.deploy.ort import feed

__all__ = ["Quantisation", "Quantiser", "quantise"]

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_CARRIERS = ("Add", "AveragePool", "Clip", "Concat", "GlobalAveragePool", "MaxPool", "Pad", "Relu", "Resize")


@dataclass(frozen=True, kw_only=True)
class Quantiser:
    """How an int8 graph is made: signed weights, unsigned activations, ranges from calibration inputs.

    Args:
        per_channel: a scale for each output channel of a weight. Default True.
        reduce_range: weights of 7 bits. Default True: processors with AVX2 but without VNNI add products of
            8-bit weights and activations in 16 bits, which saturates (15 dB of SNR lost in one measurement).
        method: range of an activation: ``minmax`` (default) or ``percentile`` (the outermost 0.001 % is cut off).
            ``entropy`` is missing on purpose: ONNX Runtime searches it among 128 bins for a range of 128 bins, so that
            there is one candidate, and what comes out is ``minmax``.
        scope: ``carriers`` (default) quantises weighted operations and those that can pass 8-bit values on
            (sums, pooling, Relu, Resize ...); ``weighted`` convolutions and matrix products alone; ``all``
            whatever ONNX Runtime can, softmax and products of activations included.
        symmetric: signed activations around zero and fp32 biases, the only form TensorRT reads. Default False.
    """

    per_channel: bool = True
    reduce_range: bool = True
    method: Literal["minmax", "percentile"] = "minmax"
    scope: Literal["carriers", "weighted", "all"] = "carriers"
    symmetric: bool = False

    @classmethod
    def of(cls, plan: PrecisionPlan) -> Quantiser:
        """The settings of a plan.

        Raises:
            InputError: an unknown setting or a value of the wrong type.
        """
        result = call(cls, plan.quantiser, where="quantiser", build=_no_plug_ins)
        assert isinstance(result, cls)
        return result

    def describe(self) -> str:
        """The settings in words, for notes."""
        bits = "7-bit weights (cannot saturate without VNNI)" if self.reduce_range else "8-bit weights"
        scales = "per channel" if self.per_channel else "per tensor"
        signs = ", symmetric" if self.symmetric else ""
        return f"{bits}, {scales}{signs}, {self.method} ranges, scope {self.scope}"

    def op_types(self) -> list[str]:
        """ONNX operators to quantise; empty for all."""
        return {"weighted": [*_WEIGHTED], "carriers": [*_WEIGHTED, *_CARRIERS], "all": []}[self.scope]


def _no_plug_ins(kind: str, spec: Any) -> Any:
    raise AssertionError("a quantiser has no plug-ins")


def quantise(
    graph: Path, calibration: Sequence[tuple[Tensor, ...]], quantiser: Quantiser, nodes: Sequence[str], folder: Path
) -> Path:
    """Write an int8 version of ``graph`` into ``folder``, named by content; nothing is done when it is there.

    Args:
        graph: an fp32 graph.
        calibration: batches of inputs from which the ranges of activations are taken; 100 to 500 samples do.
        quantiser: settings.
        nodes: names of nodes that stay in fp32.
        folder: where the result goes.

    Raises:
        BackendError: no calibration batch, or an operator that ONNX Runtime fails to quantise.
    """
    if not calibration:
        raise BackendError("int8 needs calibration inputs", where="quantise", fix="give a `calibration` split")
    source = hashlib.sha256(graph.read_bytes()).hexdigest()
    data = [tensors_key(batch) for batch in calibration]
    key = digest(source, data, asdict(quantiser), sorted(nodes), versions("onnxruntime"))
    path = folder / f"int8-{key}.onnx"
    if not path.is_file():
        with atomic_path(path) as temporary:
            _quantise(onnx.load(graph), temporary, calibration, quantiser, nodes)
    return path


@dataclass(frozen=True, kw_only=True)
class Quantisation:
    """An fp32 graph as it is under int8 plans that keep some of its nodes in fp32; see `holdfast.deploy.search`.

    Args:
        graph: the fp32 graph.
        calibration: see `quantise`.
        folder: where every quantised graph goes, so that none is made twice.
        quantiser: settings.
    """

    graph: Path
    calibration: Sequence[tuple[Tensor, ...]]
    folder: Path
    quantiser: Quantiser = Quantiser()

    @property
    def names(self) -> list[str]:
        """Nodes that these settings quantise, in the order of the graph."""
        types = self.quantiser.op_types()
        return [node.name for node in onnx.load(self.graph).graph.node if not types or node.op_type in types]

    def __call__(self, plan: PrecisionPlan) -> onnx.ModelProto:
        """The graph under a plan: its int8 nodes quantised, what they multiply is computed in integers."""
        kept = [name for name in self.names if plan.nodes.get(name, plan.default) == "fp32"]
        if len(kept) == len(self.names):
            return onnx.load(self.graph)
        return onnx.load(quantise(self.graph, self.calibration, self.quantiser, kept, self.folder))


def _quantise(
    fp32: onnx.ModelProto, path: Path, calibration: Sequence[tuple[Tensor, ...]], quantiser: Quantiser,
    nodes: Sequence[str],
) -> None:  # fmt: skip
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    if unknown := sorted(set(nodes) - {node.name for node in fp32.graph.node}):
        raise BackendError(f"no nodes {unknown}", where="quantise", fix="names stand in the exported graph")
    # Our exporter has done what this marker asks for; without it a warning goes to the root logger.
    fp32.metadata_props.append(onnx.StringStringEntryProto(key="onnx.quant.pre_process", value="onnxruntime.quant"))
    methods = {
        "minmax": CalibrationMethod.MinMax,
        "percentile": CalibrationMethod.Percentile,
    }
    with quiet(), redirect_stdout(io.StringIO()):  # it prints its histograms
        try:
            quantize_static(
                fp32, path, _Reader([entry.name for entry in fp32.graph.input], calibration),
                quant_format=QuantFormat.QDQ, op_types_to_quantize=quantiser.op_types(),
                per_channel=quantiser.per_channel, reduce_range=quantiser.reduce_range,
                activation_type=QuantType.QInt8 if quantiser.symmetric else QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                extra_options={"ActivationSymmetric": True, "QuantizeBias": False} if quantiser.symmetric else {},
                nodes_to_exclude=list(nodes), calibrate_method=methods[quantiser.method],
            )  # fmt: skip
        except Exception as error:  # the quantiser raises whatever its passes raise
            raise BackendError(f"cannot be quantised: {str(error).splitlines()[0]}", where="quantise") from error


class _Reader:
    """Calibration batches in the form the quantiser iterates over."""

    def __init__(self, names: Sequence[str], batches: Sequence[tuple[Tensor, ...]]) -> None:
        self._batches = iter([feed(names, batch) for batch in batches])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)
