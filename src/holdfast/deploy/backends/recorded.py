"""Outputs recorded on the target, replayed: parity without the device on the desk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn

from holdfast.core.contracts import Artefact, Availability, Outputs, PrecisionPlan
from holdfast.core.errors import BackendError, HoldfastError
from holdfast.deploy.identity import digest
from holdfast.deploy.plans import require
from holdfast.deploy.recording import Recording, read_recording

__all__ = ["Recorded"]


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """Replays ``outputs.npz`` for the very samples that were recorded; it computes nothing.

    The kit that records them is written by `holdfast.deploy.recording.write_kit`.

    Args:
        path: the file that came back from the target.
    """

    path: str = ""
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "tf32", "fp16", "bf16", "int8")

    def probe(self) -> Availability:
        """Whether there is a recording, and of what."""
        try:
            about = self._recording().about
        except HoldfastError as error:
            return Availability(ok=False, reason=str(error))
        precisions = {about["precision"]: "native"} if about["precision"] in self.precisions else {}
        return Availability(
            ok=True, reason=f"recorded on {about['device']}, {about['time']}", version=about["runtime"],
            precisions=precisions,
        )  # fmt: skip

    def _recording(self) -> Recording:
        if not self.path:
            raise BackendError("no recording given", where="recorded", fix="set its option `path`")
        return read_recording(Path(self.path))

    def prepare(
        self, model: nn.Module, example: tuple[Tensor, ...], plan: PrecisionPlan,
        calibration: Iterable[tuple[Tensor, ...]] | None, folder: Path,
    ) -> Artefact:  # fmt: skip
        """Point to the recording; nothing is built and nothing is written.

        Raises:
            InputError: the file is missing or no recording.
            BackendError: no path was given, or another precision was recorded.
        """
        require(plan, self.precisions, where="recorded")
        about = self._recording().about
        require(plan, (about["precision"],), where="recorded")
        notes = (
            f"recorded with {about['runtime']} on {about['device']}, {about['time']}, batches of {about.get('batch')}",
            f"model {about['model_sha256'][:12]}" if about.get("model_sha256") else "the model file is not known",
        )
        path = Path(self.path)
        return Artefact(backend="recorded", plan=plan, key=digest(about["kit"], about), path=path, notes=notes)

    def load(self, artefact: Artefact) -> RecordedSession:
        """Open the recording."""
        assert artefact.path is not None, "a recording is a file"
        return RecordedSession(read_recording(artefact.path))


class RecordedSession:
    """Looks up what the target gave."""

    def __init__(self, recording: Recording) -> None:
        self._recording: Recording | None = recording
        self._executed = f"{recording.about['executed']} (recorded)"

    def __call__(self, *inputs: Tensor) -> Outputs:
        """The recorded outputs of a batch."""
        if self._recording is None:
            raise BackendError("the session is closed", where="recorded")
        return self._recording.replay(*inputs)

    def executed_precision(self) -> str:
        """What the target said of itself; ``unknown (recorded)`` where it could not tell."""
        return self._executed

    def close(self) -> None:
        """Drop the outputs."""
        self._recording = None
