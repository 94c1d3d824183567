"""ONNX Runtime on the CPU, the embedded default: fp32, int8 as a statically quantised graph, fp16 as a typed one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn

from holdfast.core.contracts import Artefact, Availability, PrecisionPlan
from holdfast.deploy.casts import write_typed
from holdfast.deploy.export import export_onnx
from holdfast.deploy.fold import agreement_db
from holdfast.deploy.identity import digest, versions
from holdfast.deploy.ort import open_session, run_session
from holdfast.deploy.ort_session import OrtSession
from holdfast.deploy.plans import require
from holdfast.deploy.quantise import Quantiser, quantise

__all__ = ["OnnxRuntime"]

_SATURATED_DB = 3.0  # executed and simulated int8 differ by tenths of a dB where nothing saturates


@dataclass(frozen=True, kw_only=True)
class OnnxRuntime:
    """The exported graph on ONNX Runtime's CPU provider.

    int8 needs ``calibration`` inputs. Settings of the plan's ``quantiser``: see `holdfast.deploy.quantise.Quantiser`.
    fp16 runs the graph that a strongly typed engine would, see `holdfast.deploy.casts.type_plan`; on x86 ONNX Runtime
    has no kernels for it and computes in fp32 with rounded weights, which the session says.

    Args:
        threads: of one operator. Default 1, so that results do not depend on the machine's cores.
    """

    threads: int = 1
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "int8", "fp16")

    def probe(self) -> Availability:
        """Whether the package imports."""
        try:
            import onnxruntime
        except ImportError as error:
            return Availability(ok=False, reason=str(error))
        worth = {"fp32": "native", "int8": "native", "fp16": "upcast"}
        return Availability(ok=True, reason="CPU provider", version=onnxruntime.__version__, precisions=worth)

    def prepare(
        self, model: nn.Module, example: tuple[Tensor, ...], plan: PrecisionPlan,
        calibration: Iterable[tuple[Tensor, ...]] | None, folder: Path,
    ) -> Artefact:  # fmt: skip
        """Export to ONNX and, for int8, quantise; graphs are shared and found again by content.

        Raises:
            BackendError: another precision, a model that cannot be exported, int8 without calibration.
        """
        require(plan, self.precisions, where="onnxruntime", exceptions=("fp32",))
        graph = export_onnx(model, example, folder)
        notes = (f"{len(graph.folded)} batch normalisations folded",) if graph.folded else ()
        if plan.default == "fp32":
            key = digest("onnxruntime", graph.key, versions("onnxruntime"))
            return Artefact(backend="onnxruntime", plan=plan, key=key, path=graph.path, notes=notes)
        if plan.default == "fp16":
            path = write_typed(graph.path, plan, folder)
            return Artefact(backend="onnxruntime", plan=plan, key=path.stem, path=path, notes=notes)
        quantiser, batches = Quantiser.of(plan), tuple(calibration or ())
        path = quantise(graph.path, batches, quantiser, sorted(plan.nodes), folder)
        notes = (*notes, f"int8: {quantiser.describe()}", *self._saturation(graph.path, path, batches[0]))
        return Artefact(backend="onnxruntime", plan=plan, key=path.stem, path=path, notes=notes)

    def _saturation(self, fp32: Path, int8: Path, batch: tuple[Tensor, ...]) -> tuple[str, ...]:
        """One note if this processor's int8 kernels lose what the quantised graph itself still has."""
        exact, simulated, executed = (
            run_session(open_session(path, threads=self.threads, optimise=optimise), batch)
            for path, optimise in ((fp32, True), (int8, False), (int8, True))
        )
        promised_db, got_db = agreement_db(exact, simulated), agreement_db(exact, executed)
        if got_db > promised_db - _SATURATED_DB:
            return ()
        return (
            f"int8 saturates on this processor: {got_db:.0f} dB against fp32, {promised_db:.0f} dB when simulated;"
            " set quantiser reduce_range",
        )

    def load(self, artefact: Artefact) -> OrtSession:
        """Open the graph.

        Raises:
            BackendError: the file is missing or damaged.
        """
        assert artefact.path is not None, "an ONNX artefact is a file"
        return OrtSession(artefact.path, precision=artefact.plan.default, threads=self.threads)
