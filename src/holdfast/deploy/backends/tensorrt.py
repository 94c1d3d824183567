"""NVIDIA TensorRT 10 and 11, where a GPU and its Python package are there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import onnx
import torch
from torch import Tensor, nn

from holdfast.core.contracts import Artefact, Availability, Outputs, PrecisionPlan
from holdfast.core.errors import BackendError
from holdfast.core.store import atomic_path
from holdfast.deploy.casts import write_typed
from holdfast.deploy.contained import TIMEOUT_S, call_contained
from holdfast.deploy.engine import EngineSettings, build_engine, is_strong
from holdfast.deploy.export import LAYOUT, export_onnx
from holdfast.deploy.identity import digest
from holdfast.deploy.nest import unflatten
from holdfast.deploy.plans import require
from holdfast.deploy.quantise import Quantiser, quantise
from holdfast.deploy.target import record

__all__ = ["TensorRT"]


@dataclass(frozen=True, kw_only=True)
class TensorRT:
    """An engine built from the exported graph.

    fp16 plans are written into the graph as casts, which TensorRT 11 obeys and 10 can be made to obey; with
    ``typing="weak"`` (up to 10) the builder chooses within the flags, as most engines in the field were built. Two
    builds of the same graph may pick other kernels: see the noise floor.

    Exercised here with a stand-in that follows the published API; not yet run on a GPU.

    Args:
        typing: ``strong`` (default), or ``weak`` for TensorRT 10 and older.
        max_batch: largest batch of a call.
        contained: build in a child process, since builders crash.
        timeout_s: for a build.
    """

    typing: Literal["strong", "weak"] = "strong"
    max_batch: int = 64
    contained: bool = True
    timeout_s: float = TIMEOUT_S
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "tf32", "fp16", "int8")

    def probe(self) -> Availability:
        """Whether the package imports and the CUDA runtime finds a GPU."""
        try:
            import tensorrt

            record.CudaMemory().wait()
        except (ImportError, OSError, SystemExit) as error:
            return Availability(ok=False, reason=f"needs tensorrt and a GPU: {error}")
        return Availability(
            ok=True, reason="GPU", version=tensorrt.__version__, precisions=dict.fromkeys(self.precisions, "native")
        )

    def prepare(
        self, model: nn.Module, example: tuple[Tensor, ...], plan: PrecisionPlan,
        calibration: Iterable[tuple[Tensor, ...]] | None, folder: Path,
    ) -> Artefact:  # fmt: skip
        """Export, write the plan into the graph, build.

        Raises:
            BackendError: another precision, int8 without calibration, or a builder that refuses, crashes or hangs.
        """
        require(plan, self.precisions, where="tensorrt", exceptions=("fp32",))
        import tensorrt

        strong = self.typing == "strong"
        if not strong and is_strong(tensorrt.__version__):
            raise BackendError(f"TensorRT {tensorrt.__version__} knows strong typing only", where="tensorrt")
        graph = export_onnx(model, example, folder).path
        source = self._with_plan(graph, plan, calibration, folder)
        batches = (1, min(len(example[0]), self.max_batch), self.max_batch)
        keep = () if strong or plan.default != "fp16" else tuple(sorted(plan.nodes))
        settings = EngineSettings(precision=plan.default, strong=strong, keep=keep, batches=batches)
        key = digest("tensorrt", tensorrt.__version__, source.stem, repr(settings), _device())
        engine = folder / f"engine-{key}.plan"
        notes: tuple[str, ...] = ("found, not built again",)
        if not engine.is_file():
            build = _contained(self.timeout_s) if self.contained else build_engine
            notes = build(source, engine, settings)
        _describe(source, engine.with_suffix(".json"))
        notes = (*notes, f"engine {hashlib.sha256(engine.read_bytes()).hexdigest()[:12]}")
        return Artefact(backend="tensorrt", plan=plan, key=key, path=engine, notes=notes)

    def _with_plan(
        self, graph: Path, plan: PrecisionPlan, calibration: Iterable[tuple[Tensor, ...]] | None, folder: Path
    ) -> Path:
        """The graph that the parser reads: quantised for int8, with casts for a strongly typed fp16 engine."""
        if plan.default == "int8":
            settings = {"symmetric": True, "reduce_range": False, **plan.quantiser}
            quantiser = Quantiser.of(PrecisionPlan(quantiser=settings))
            return quantise(graph, tuple(calibration or ()), quantiser, sorted(plan.nodes), folder)
        if plan.default == "fp16" and self.typing == "strong":
            return write_typed(graph, plan, folder)
        return graph

    def load(self, artefact: Artefact) -> TensorRTSession:
        """Deserialise the engine.

        Raises:
            BackendError: another TensorRT or another GPU built it.
        """
        assert artefact.path is not None, "an engine is a file"
        return TensorRTSession(artefact.path, artefact.plan.default)


def _contained(timeout_s: float) -> Callable[[Path, Path, EngineSettings], tuple[str, ...]]:
    def build(graph: Path, engine: Path, settings: EngineSettings) -> tuple[str, ...]:
        notes: tuple[str, ...] = call_contained(build_engine, graph, engine, settings, timeout_s=timeout_s)
        return notes

    return build


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "unknown GPU"


def _describe(graph: Path, path: Path) -> None:
    """What an engine file does not hold: the order and the nest of its outputs."""
    loaded = onnx.load(graph, load_external_data=False)
    metadata = {entry.key: entry.value for entry in loaded.metadata_props}
    facts = {
        "inputs": [entry.name for entry in loaded.graph.input],
        "outputs": [entry.name for entry in loaded.graph.output],
        "layout": json.loads(metadata[LAYOUT]),
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(facts), encoding="utf-8")


class TensorRTSession:
    """An engine that takes and gives CPU tensors in the model's nest."""

    def __init__(self, engine: Path, precision: str) -> None:
        self._facts = json.loads(engine.with_suffix(".json").read_text(encoding="utf-8"))
        self._runner: Any = _stopped(record.TensorRT, str(engine))
        # The inspector cannot tell TF32 from fp32.
        self._executed = (
            f"tf32 allowed, tensors {self._runner.executed}" if precision == "tf32" else self._runner.executed
        )

    def __call__(self, *inputs: Tensor) -> Outputs:
        """Run a batch.

        Raises:
            BackendError: the engine does not take the shape, or fails.
        """
        if self._runner is None:
            raise BackendError("the session is closed", where="tensorrt")
        fed = {name: x.detach().cpu().numpy() for name, x in zip(self._facts["inputs"], inputs, strict=True)}
        given = _stopped(self._runner.run, fed)
        tensors = [torch.from_numpy(given[name]) for name in self._facts["outputs"]]
        return unflatten(tensors, self._facts["layout"])

    def executed_precision(self) -> str:
        """What the engine's inspector says of its tensors."""
        return str(self._executed)

    def close(self) -> None:
        """Release engine and context."""
        self._runner = None


def _stopped(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call the target's script, which ends with a message where this program raises."""
    try:
        return function(*arguments)
    except SystemExit as stop:
        raise BackendError(str(stop), where="tensorrt") from None
