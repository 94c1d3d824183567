"""Stands in for the Python package ``tensorrt``, following its published API; engines are run by ONNX Runtime.

It knows both generations. Up to 10 a network is weakly typed unless asked otherwise: builder flags allow precisions and
layers may be pinned. From 11 on every network is strongly typed and those names do not exist. Device memory is host
memory, so addresses can be read here.
"""

from __future__ import annotations

import ctypes
import enum
import importlib.machinery
import json
import types
from typing import Any

import numpy as np
import onnx
import onnxruntime

from holdfast.core.contracts import PrecisionPlan
from holdfast.deploy.casts import emulate_plan, lowerable
from holdfast.deploy.graph import GraphView


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


class BuilderFlag(enum.Enum):
    FP16 = 0
    INT8 = 1
    TF32 = 7
    OBEY_PRECISION_CONSTRAINTS = 10


class NetworkDefinitionCreationFlag(enum.IntEnum):
    EXPLICIT_BATCH = 0
    STRONGLY_TYPED = 1


class HostMemory(bytes):
    """What `Builder.build_serialized_network` returns: a buffer."""


class Layer:
    def __init__(self, node: onnx.NodeProto) -> None:
        self.name, self.num_outputs = node.name, len(node.output)
        self.precision: DataType | None = None
        self.output_types: dict[int, DataType] = {}

    def set_output_type(self, index: int, kind: DataType) -> None:
        self.output_types[index] = kind


class Network:
    def __init__(self, strong: bool) -> None:
        self.strong = strong
        self.graph: onnx.ModelProto | None = None
        self.layers: list[Layer] = []

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def get_layer(self, index: int) -> Layer:
        return self.layers[index]

    @property
    def num_inputs(self) -> int:
        return len(self.graph.graph.input)

    def get_input(self, index: int) -> types.SimpleNamespace:
        entry = self.graph.graph.input[index]
        dims = entry.type.tensor_type.shape.dim
        return types.SimpleNamespace(name=entry.name, shape=tuple(-1 if d.dim_param else d.dim_value for d in dims))


class OnnxParser:
    def __init__(self, network: Network, logger: Logger) -> None:
        self.network, self.errors = network, []

    def parse(self, content: bytes) -> bool:
        graph = onnx.load_from_string(content)
        unsigned = [entry.name for entry in graph.graph.initializer if entry.data_type == 2]
        if unsigned:
            self.errors.append(f"UINT8 constant {unsigned[0]} is not supported")
            return False
        self.network.graph = graph
        self.network.layers = [Layer(node) for node in graph.graph.node]
        return True

    @property
    def num_errors(self) -> int:
        return len(self.errors)

    def get_error(self, index: int) -> str:
        return self.errors[index]


class Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}

    def set_shape(self, name: str, low: Any, usual: Any, high: Any) -> None:
        assert all(a <= b <= c for a, b, c in zip(low, usual, high, strict=True))
        self.shapes[name] = (tuple(low), tuple(high))


class Config:
    def __init__(self) -> None:
        self.flags = {BuilderFlag.TF32}
        self.profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
        self.profiles: list[Profile] = []

    def set_flag(self, flag: BuilderFlag) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.flags.discard(flag)

    def add_optimization_profile(self, profile: Profile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1


class Builder:
    version = 10

    def __init__(self, logger: Logger) -> None: ...

    def create_network(self, flags: int = 0) -> Network:
        return Network(self.version >= 11 or bool(flags >> int(NetworkDefinitionCreationFlag.STRONGLY_TYPED) & 1))

    def create_builder_config(self) -> Config:
        return Config()

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: Config) -> HostMemory | None:
        assert not (network.strong and config.flags & {BuilderFlag.FP16, BuilderFlag.INT8}), (
            "flags clash with strong typing"
        )
        if not config.profiles or not network.layers:
            return None
        weak_half = not network.strong and BuilderFlag.FP16 in config.flags
        obey = BuilderFlag.OBEY_PRECISION_CONSTRAINTS in config.flags
        kept = {layer.name for layer in network.layers if obey and layer.precision is DataType.FLOAT}
        graph = network.graph
        if weak_half:
            able = set(lowerable(GraphView(graph)))
            exceptions = dict.fromkeys(sorted(kept & able), "fp32")
            graph = emulate_plan(graph, PrecisionPlan(default="fp16", nodes=exceptions))
        halves = {output for node in graph.graph.node for output in node.output if output.endswith("__fp16")}
        layers = [
            [node.name, _precision(node, weak_half and node.name not in kept, halves)]
            for node in network.graph.graph.node
            if node.op_type not in ("Cast", "QuantizeLinear", "DequantizeLinear")
        ]
        facts = {"version": self.version, "layers": layers, "verbosity": config.profiling_verbosity.name,
                 "profile": config.profiles[0].shapes, "flags": sorted(flag.name for flag in config.flags)}  # fmt: skip
        return HostMemory(json.dumps(facts).encode() + b"\0" + graph.SerializeToString())


def _precision(node: onnx.NodeProto, weak_half: bool, halves: set[str]) -> str:
    if any("DequantizeLinear" in name for name in node.input):
        return "int8"
    return "fp16" if weak_half or halves & set(node.output) else "fp32"


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
    module.__spec__ = importlib.machinery.ModuleSpec("tensorrt", None)  # others look for it
    parts = [TensorIOMode, DataType, LayerInformationFormat, ProfilingVerbosity, Logger, Runtime, nptype, OnnxParser]
    generation = int(version.split(".")[0])
    builder = type("Builder", (Builder,), {"version": generation})
    names = {part.__name__: part for part in (*parts, NetworkDefinitionCreationFlag)} | {"Builder": builder}
    flags = ("TF32",) if generation >= 11 else BuilderFlag.__members__
    names["BuilderFlag"] = types.SimpleNamespace(**{name: BuilderFlag[name] for name in flags})
    for name, part in names.items():
        setattr(module, name, part)
    module.__version__ = version  # type: ignore[attr-defined]  # a module takes any attribute
    return module
