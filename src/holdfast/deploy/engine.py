"""Building TensorRT engines through both generations of the Python API: weak typing up to 10, strong typing from 11."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.core.errors import BackendError
from holdfast.core.store import atomic_path

__all__ = ["EngineSettings", "build_engine", "is_strong"]


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """What the builder is told.

    Args:
        precision: ``fp32``, ``tf32``, ``fp16`` or ``int8``.
        strong: every tensor has the type that stands in the graph; else the builder chooses within ``precision``.
        keep: names of layers that stay in fp32; only for weak typing.
        batches: smallest, usual and largest batch.
    """

    precision: str = "fp32"
    strong: bool = True
    keep: tuple[str, ...] = ()
    batches: tuple[int, int, int] = (1, 8, 64)


def is_strong(version: str) -> bool:
    """Whether a TensorRT of this version knows strong typing only."""
    return int(version.split(".")[0]) >= 11


def build_engine(graph: Path, engine: Path, settings: EngineSettings) -> tuple[str, ...]:
    """Build and write an engine; takes minutes and may crash, so call it in a child process.

    Args:
        graph: an ONNX file; for strong typing its types are the plan.
        engine: the file to write.
        settings: see `EngineSettings`.

    Returns:
        Notes for the reader.

    Raises:
        BackendError: the parser or the builder refuses, with its first words.
    """
    import tensorrt as trt

    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt, settings))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph.read_bytes()):
        reason = str(parser.get_error(0)) if parser.num_errors else "no reason given"
        raise BackendError(f"the parser refuses the graph: {reason}", where="tensorrt")
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # else the engine cannot say what it executes
    _allow(trt, config, settings)
    pinned = () if settings.strong else _pin(trt, network, config, settings.keep)
    config.add_optimization_profile(_profile(builder, network, settings.batches))
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BackendError("the builder gives no engine", where="tensorrt", fix="its log above says why")
    with atomic_path(engine) as path:
        path.write_bytes(bytes(plan))
    return (f"TensorRT {trt.__version__}, {'strong' if settings.strong else 'weak'} typing", *pinned)


def _network_flags(trt: Any, settings: EngineSettings) -> int:
    if not settings.strong or is_strong(trt.__version__):
        return 0
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def _allow(trt: Any, config: Any, settings: EngineSettings) -> None:
    """Flags: TF32 is on by default and has to be forbidden; the others exist under weak typing only."""
    if settings.precision == "tf32":
        config.set_flag(trt.BuilderFlag.TF32)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)
    if not settings.strong and settings.precision == "fp16":
        config.set_flag(trt.BuilderFlag.FP16)
    if not settings.strong and settings.precision == "int8":
        config.set_flag(trt.BuilderFlag.INT8)


def _pin(trt: Any, network: Any, config: Any, keep: tuple[str, ...]) -> tuple[str, ...]:
    """Hold layers in fp32; the parser calls a layer by the name of its node."""
    if not keep:
        return ()
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    found = set()
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        if layer.name in keep:
            found.add(layer.name)
            layer.precision = trt.DataType.FLOAT
            for output in range(layer.num_outputs):
                layer.set_output_type(output, trt.DataType.FLOAT)
    if missing := sorted(set(keep) - found):
        raise BackendError(f"no layers {missing}: the parser has merged or renamed them", where="tensorrt")
    return (f"{len(found)} layers pinned to fp32",)


def _profile(builder: Any, network: Any, batches: tuple[int, int, int]) -> Any:
    profile = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        entry = network.get_input(i)
        profile.set_shape(entry.name, *((batch, *tuple(entry.shape)[1:]) for batch in batches))
    return profile
