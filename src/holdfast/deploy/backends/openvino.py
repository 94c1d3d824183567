"""OpenVINO on the CPU: fp32, int8 from a quantised graph, and half precisions where the processor has them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from holdfast.core.contracts import Artefact, Availability, Outputs, PrecisionPlan
from holdfast.core.errors import BackendError
from holdfast.deploy.export import LAYOUT, export_onnx
from holdfast.deploy.identity import digest, versions
from holdfast.deploy.nest import flatten, unflatten
from holdfast.deploy.plans import executed, require
from holdfast.deploy.quantise import Quantiser, quantise

__all__ = ["OpenVINO"]

_HINTS = {"fp32": "f32", "int8": "f32", "bf16": "bf16", "fp16": "f16"}
_CAPABILITIES = {"fp32": "FP32", "int8": "INT8", "bf16": "BF16", "fp16": "FP16"}
_NAMES = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "i8": "int8", "u8": "int8"}
_MATRIX = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")


@dataclass(frozen=True, kw_only=True)
class OpenVINO:
    """The exported graph on OpenVINO's CPU plug-in.

    A precision is a hint to OpenVINO: it takes fp16 on any processor and then computes in bf16 or fp32 without a
    word. So the session asks the compiled graph what its nodes run in. int8 needs ``calibration`` inputs, see
    `holdfast.deploy.quantise.Quantiser`.

    Args:
        threads: inference threads. Default 1.
    """

    threads: int = 1
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "int8", "bf16", "fp16")

    def probe(self) -> Availability:
        """Whether the package imports, and what the processor can do."""
        try:
            import openvino
        except ImportError as error:
            return Availability(ok=False, reason=f"{error}: pip install holdfast[openvino]")
        native = _native(openvino.Core())
        worth = {p: "native" if p in native else "upcast" for p in self.precisions}
        if worth["bf16"] == "upcast" and torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
            worth["bf16"] = "emulated"  # its kernels round to bf16 where vectors are wide enough
        return Availability(ok=True, reason="CPU plug-in", version=openvino.__version__, precisions=worth)

    def prepare(
        self, model: nn.Module, example: tuple[Tensor, ...], plan: PrecisionPlan,
        calibration: Iterable[tuple[Tensor, ...]] | None, folder: Path,
    ) -> Artefact:  # fmt: skip
        """Export to ONNX and, for int8, quantise; the graphs are those that ONNX Runtime would run.

        Raises:
            BackendError: another precision, a model that cannot be exported, int8 without calibration.
        """
        require(plan, self.precisions, where="openvino", exceptions=("fp32",) if plan.default == "int8" else ())
        graph = export_onnx(model, example, folder)
        notes = (f"{len(graph.folded)} batch normalisations folded",) if graph.folded else ()
        path = graph.path
        if plan.default == "int8":
            path = quantise(path, tuple(calibration or ()), Quantiser.of(plan), sorted(plan.nodes), folder)
            notes = (*notes, f"int8: {Quantiser.of(plan).describe()}")
        key = digest("openvino", path.stem, plan.default, versions("openvino"))
        artefact = Artefact(backend="openvino", plan=plan, key=key, path=path, notes=notes)
        if plan.default == "int8":  # an integer holds no NaN anyway
            return artefact
        return replace(artefact, notes=(*notes, *self._lost_nan(artefact, example)))

    def _lost_nan(self, artefact: Artefact, example: tuple[Tensor, ...]) -> tuple[str, ...]:
        """One note where a broken input gives healthy outputs: Relu in some releases makes zero of NaN."""
        broken = tuple(torch.full_like(x, math.nan) if x.is_floating_point() else x for x in example)
        with closing(self.load(artefact)) as session:
            outputs, _ = flatten(session(*broken))
        return () if any(bool(x.isnan().any()) for x in outputs) else ("NaN in the input vanishes on the way",)

    def load(self, artefact: Artefact) -> OpenVINOSession:
        """Compile the graph.

        Raises:
            BackendError: OpenVINO cannot read or compile it.
        """
        assert artefact.path is not None, "an OpenVINO artefact is a file"
        return OpenVINOSession(artefact.path, precision=artefact.plan.default, threads=self.threads)


class OpenVINOSession:
    """A compiled graph that takes and gives CPU tensors in the model's nest."""

    def __init__(self, path: Path, *, precision: str, threads: int) -> None:
        import openvino

        settings = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
        }
        core = openvino.Core()
        try:
            compiled = core.compile_model(core.read_model(path), "CPU", settings)
        except RuntimeError as error:
            raise BackendError(str(error).splitlines()[0], where="openvino") from error
        self._compiled: Any = compiled
        kinds = [_info(node, "runtimePrecision") for node in compiled.get_runtime_model().get_ordered_ops()
                 if _info(node, "layerType") in _MATRIX]  # fmt: skip
        found = executed(precision, [_NAMES.get(kind, kind) for kind in kinds])
        self._executed = "bf16 (emulated)" if found == "bf16" and "bf16" not in _native(core) else found
        metadata = {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
        self._layout = json.loads(metadata[LAYOUT])

    def __call__(self, *inputs: Tensor) -> Outputs:
        """Run a batch.

        Raises:
            BackendError: wrong number, shape or dtype of inputs.
        """
        if self._compiled is None:
            raise BackendError("the session is closed", where="openvino")
        fed = [np.ascontiguousarray(x.detach().cpu().numpy()) for x in inputs]
        try:
            results = self._compiled(fed)
        except (RuntimeError, ValueError, TypeError) as error:
            raise BackendError(str(error).splitlines()[0], where="openvino") from error
        # The arrays belong to the compiled graph, which fills them again at the next call.
        tensors = [torch.from_numpy(np.array(results[output])) for output in self._compiled.outputs]
        return unflatten(tensors, self._layout)

    def executed_precision(self) -> str:
        """Precision of the convolutions and matrix products as the compiled graph reports it."""
        return self._executed

    def close(self) -> None:
        """Release the compiled graph."""
        self._compiled = None


def _native(core: Any) -> list[str]:
    able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return [precision for precision, name in _CAPABILITIES.items() if name in able]


def _info(node: Any, key: str) -> str:
    return str(node.get_rt_info()[key].value)
