"""Half precision as an engine would compute it, emulated in fp32 on any CPU."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from holdfast.core.contracts import Artefact, Availability, PrecisionPlan
from holdfast.core.errors import BackendError
from holdfast.deploy.emulate import PRECISIONS, Rounding, round_to, rounded_copy
from holdfast.deploy.fold import fold_batchnorm
from holdfast.deploy.identity import digest, versions, weights_key
from holdfast.deploy.plans import require

__all__ = ["Emulated"]


@dataclass(frozen=True, kw_only=True)
class Emulated:
    """fp32 arithmetic, rounded wherever an engine stores: weights, inputs, the output of each ATen operation.

    Batch normalisation is folded first, as engines do. Sums stay in fp32; which kernels an engine picks and what
    it fuses is not emulated, see `holdfast.deploy.emulate.Rounding`.
    """

    precisions: ClassVar[tuple[str, ...]] = PRECISIONS

    def probe(self) -> Availability:
        """Always there."""
        emulated = dict.fromkeys(self.precisions, "emulated")
        return Availability(ok=True, reason="part of holdfast", version=torch.__version__, precisions=emulated)

    def prepare(
        self, model: nn.Module, example: tuple[Tensor, ...], plan: PrecisionPlan,
        calibration: Iterable[tuple[Tensor, ...]] | None, folder: Path,
    ) -> Artefact:  # fmt: skip
        """Fold and round a copy; nothing is written and calibration is not needed.

        Raises:
            BackendError: another precision.
        """
        require(plan, self.precisions, where="emulated")
        folded, names = fold_batchnorm(model, example)
        module = rounded_copy(folded.cpu(), plan.default)
        lost = _overflown(folded, module)
        notes = (f"{len(names)} batch normalisations folded before rounding", *lost)
        key = digest("emulated", plan.default, weights_key(module), versions("torch"))
        return Artefact(backend="emulated", plan=plan, key=key, module=module, notes=notes)

    def load(self, artefact: Artefact) -> EmulatedSession:
        """Run the rounded module with every operation rounded."""
        assert artefact.module is not None, "an emulated artefact holds a module"
        return EmulatedSession(artefact.module, artefact.plan.default)


def _overflown(exact: nn.Module, rounded: nn.Module) -> tuple[str, ...]:
    """One note if weights became infinite, naming the first."""
    names = [
        name
        for (name, before), after in zip(exact.state_dict().items(), rounded.state_dict().values(), strict=True)
        if before.is_floating_point() and before.isfinite().all() and not after.isfinite().all()
    ]
    return (f"{len(names)} weights overflow, first {names[0]}",) if names else ()


class EmulatedSession:
    """A rounded module, run under `Rounding` without gradients."""

    def __init__(self, module: nn.Module, precision: str) -> None:
        self._module: nn.Module | None = module
        self._precision = precision

    def __call__(self, *inputs: Tensor) -> Any:
        """Round the inputs and run."""
        if self._module is None:
            raise BackendError("the session is closed", where="emulated")
        stored = [x if self._precision == "tf32" or x.dtype is not torch.float32 else self._round(x) for x in inputs]
        with torch.no_grad(), Rounding(self._precision):
            return self._module(*stored)

    def _round(self, x: Tensor) -> Tensor:
        return round_to(x, self._precision)

    def executed_precision(self) -> str:
        """``"fp16 (emulated)"`` and the like."""
        return f"{self._precision} (emulated)"

    def close(self) -> None:
        """Drop the module."""
        self._module = None
