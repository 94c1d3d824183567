"""Stands in for the Python package ``tensorrt``, following its published API; engines are run by ONNX Runtime.

It knows both generations. Up to 10 a network is weakly typed unless asked otherwise: builder flags allow precisions and
layers may be pinned. From 11 on every network is strongly typed and those names do not exist. Device memory is host
memory, so addresses can be read here.
"""

from __future__ import annotations

import ctypes
import enum
import json
import types
from typing import Any

import numpy as np
import onnx
import onnxruntime


class TensorIOMode(enum.Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3


class LayerInformationFormat(enum.Enum):
    ONELINE = 0
    JSON = 1


class ProfilingVerbosity(enum.Enum):
    LAYER_NAMES_ONLY = 0
    NONE = 1
    DETAILED = 2


class Logger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def __init__(self, severity: int = 2) -> None:
        self.severity = severity

    def log(self, severity: int, message: str) -> None: ...


_DTYPES = {1: DataType.FLOAT, 10: DataType.HALF, 6: DataType.INT32}


def nptype(kind: DataType) -> Any:
    return {DataType.FLOAT: np.float32, DataType.HALF: np.float16, DataType.INT32: np.int32}[kind]


class Engine:
    """A deserialised engine: the graph, and what the builder decided."""

    def __init__(self, plan: bytes) -> None:
        header, _, graph = plan.partition(b"\0")
        self.facts = json.loads(header)
        self.graph = onnx.load_from_string(graph)
        self.session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        self._io = {entry.name: entry for entry in (*self.graph.graph.input, *self.graph.graph.output)}
        self._inputs = {entry.name for entry in self.graph.graph.input}
        self.num_io_tensors = len(self._io)

    def get_tensor_name(self, index: int) -> str:
        return list(self._io)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return _DTYPES[self._io[name].type.tensor_type.elem_type]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        dims = self._io[name].type.tensor_type.shape.dim
        return tuple(-1 if dim.dim_param else dim.dim_value for dim in dims)

    def create_execution_context(self) -> Context:
        return Context(self)

    def create_engine_inspector(self) -> Inspector:
        return Inspector(self)


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, high = self.engine.facts["profile"].get(name, (shape, shape))
        fits = all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))
        if fits:
            self.shapes[name] = tuple(shape)
        return fits

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self.shapes:
            return self.shapes[name]
        batch = next(iter(self.shapes.values()))[0]
        return tuple(batch if dim == -1 else dim for dim in self.engine.get_tensor_shape(name))

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        names = [entry.name for entry in self.engine.session.get_outputs()]
        inputs = {name: self._view(name) for name in self.shapes}
        for name, value in zip(names, self.engine.session.run(names, inputs), strict=True):
            self._view(name)[...] = value
        return True

    def _view(self, name: str) -> np.ndarray:
        dtype, shape = np.dtype(nptype(self.engine.get_tensor_dtype(name))), self.get_tensor_shape(name)
        size = int(np.prod(shape)) * dtype.itemsize
        buffer = (ctypes.c_char * size).from_address(self.addresses[name])
        return np.frombuffer(buffer, dtype=dtype).reshape(shape)


class Inspector:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.execution_context: Context | None = None

    def get_engine_information(self, form: LayerInformationFormat) -> str:
        assert form is LayerInformationFormat.JSON
        layers = self.engine.facts["layers"]
        if self.engine.facts["verbosity"] != "DETAILED":
            return json.dumps({"Layers": [name for name, _ in layers]})
        new = self.engine.facts["version"] >= 11
        words = {"fp32": "FP32", "fp16": "FP16", "bf16": "BF16", "int8": "Int8"}
        kinds = {"fp32": "Row major linear FP32", "fp16": "Row major linear FP16 format", "int8": "Int8 NHWC"}
        described = [
            {"Name": name, "Outputs": [{"DataType": words[p]} if new else {"Format/Datatype": kinds.get(p, p)}]}
            for name, p in layers
        ]
        return json.dumps({"Layers": described})


class Runtime:
    def __init__(self, logger: Logger) -> None: ...

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        return Engine(plan) if b"\0" in plan else None


class HostMemory(bytes):
    """What `Builder.build_serialized_network` returns: a buffer."""


class Memory:
    """Host memory where `holdfast.deploy.target.record.CudaMemory` would take the device's."""

    def __init__(self) -> None:
        self.held: dict[int, Any] = {}

    def reserve(self, nbytes: int) -> int:
        buffer = ctypes.create_string_buffer(max(nbytes, 1))
        self.held[ctypes.addressof(buffer)] = buffer
        return ctypes.addressof(buffer)

    def put(self, array: np.ndarray) -> int:
        address = self.reserve(array.nbytes)
        ctypes.memmove(address, array.ctypes.data, array.nbytes)
        return address

    def get(self, array: np.ndarray, address: int) -> None:
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def wait(self) -> None: ...

    def free(self, address: int) -> None:
        del self.held[address]


def plan_of(graph: onnx.ModelProto, *, version: int = 10, precision: str = "fp32", detailed: bool = True) -> bytes:
    """An engine file without a builder."""
    layers = [[node.name, precision] for node in graph.graph.node]
    verbosity = "DETAILED" if detailed else "LAYER_NAMES_ONLY"
    facts = {"version": version, "layers": layers, "verbosity": verbosity, "profile": {}}
    return json.dumps(facts).encode() + b"\0" + graph.SerializeToString()


def package(version: str = "10.3.0") -> types.ModuleType:
    """The module to put into ``sys.modules["tensorrt"]``."""
    module = types.ModuleType("tensorrt")
    for part in (TensorIOMode, DataType, LayerInformationFormat, ProfilingVerbosity, Logger, Runtime, nptype):
        setattr(module, part.__name__, part)
    module.__version__ = version  # type: ignore[attr-defined]  # a module takes any attribute
    return module
