"""Low precision as an engine would compute it, emulated in fp32 on any CPU."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from holdfast.core.contracts import Artefact, Availability, Outputs, PrecisionPlan
from holdfast.deploy.emulate import PRECISIONS, Rounding, round_to, rounded_copy
from holdfast.deploy.emulate_int8 import Quantising, observe
from holdfast.deploy.fold import fold_batchnorm
from holdfast.deploy.identity import digest, tensors_key, versions, weights_key
from holdfast.deploy.module_session import ModuleSession
from holdfast.deploy.plans import require

__all__ = ["Emulated"]


@dataclass(frozen=True, kw_only=True)
class Emulated:
    """fp32 arithmetic, rounded wherever an engine would store: weights, inputs, the output of each ATen operation.

    Batch normalisation is folded first, as engines do. Which kernels an engine picks and what it fuses is not
    emulated. Sums stay in fp32, or in fp16 for ``fp16_accumulate``, several times slower: the two are the range in
    which to expect an engine. See `holdfast.deploy.emulate.Rounding` and, for int8, which needs ``calibration``,
    `holdfast.deploy.emulate_int8.Quantising`.

    Args:
        per_channel: int8 weights have a scale for each output channel. Default True.
    """

    per_channel: bool = True
    precisions: ClassVar[tuple[str, ...]] = (*PRECISIONS, "int8")

    def probe(self) -> Availability:
        """Always there."""
        emulated = dict.fromkeys(self.precisions, "emulated")
        return Availability(ok=True, reason="part of holdfast", version=torch.__version__, precisions=emulated)

    def prepare(
        self, model: nn.Module, example: tuple[Tensor, ...], plan: PrecisionPlan,
        calibration: Iterable[tuple[Tensor, ...]] | None, folder: Path,
    ) -> Artefact:  # fmt: skip
        """Fold and round a copy; nothing is written.

        Raises:
            BackendError: another precision, or int8 without calibration.
        """
        require(plan, self.precisions, where="emulated")
        folded, names = fold_batchnorm(model, example)
        notes: tuple[str, ...] = (f"{len(names)} batch normalisations folded before rounding",)
        module: nn.Module
        if plan.default == "int8":
            batches = list(calibration or ())
            module = InQuantising(folded, batches, per_channel=self.per_channel)
            notes = (*notes, f"int8 operands, {'per channel' if self.per_channel else 'per tensor'}, minmax ranges")
            data = [tensors_key(batch) for batch in batches]
        else:
            module, data = InRounding(rounded_copy(folded, plan.default), plan.default), []
            notes = (*notes, *_overflown(folded, module.model))
        key = digest("emulated", plan.default, self.per_channel, weights_key(folded), data, versions("torch"))
        return Artefact(backend="emulated", plan=plan, key=key, module=module, notes=notes)

    def load(self, artefact: Artefact) -> ModuleSession:
        """Run the artefact's module without gradients."""
        assert artefact.module is not None, "an emulated artefact holds a module"
        return ModuleSession(artefact.module, f"{artefact.plan.default} (emulated)", where="emulated")


def _overflown(exact: nn.Module, rounded: nn.Module) -> tuple[str, ...]:
    """One note if weights became infinite, naming the first."""
    names = [
        name
        for (name, before), after in zip(exact.state_dict().items(), rounded.state_dict().values(), strict=True)
        if before.is_floating_point() and before.isfinite().all() and not after.isfinite().all()
    ]
    return (f"{len(names)} weights overflow, first {names[0]}",) if names else ()


class InRounding(nn.Module):
    """A rounded module whose inputs and operations are rounded as well."""

    def __init__(self, model: nn.Module, precision: str) -> None:
        super().__init__()
        self.model, self.precision = model, precision

    def forward(self, *inputs: Tensor) -> Outputs:
        """Round the inputs and run."""
        with Rounding(self.precision):
            return self.model(*(self._stored(x) for x in inputs))

    def _stored(self, x: Tensor) -> Tensor:
        stays = self.precision == "tf32" or x.dtype is not torch.float32
        return x if stays else round_to(x, self.precision)


class InQuantising(nn.Module):
    """A module whose matrix operations multiply int8 numbers."""

    def __init__(self, model: nn.Module, calibration: list[tuple[Tensor, ...]], *, per_channel: bool) -> None:
        super().__init__()
        self.model = model
        self.mode = Quantising(model, observe(model, calibration), per_channel=per_channel)

    def forward(self, *inputs: Tensor) -> Outputs:
        """Run."""
        self.mode.restart()
        with self.mode:
            return self.model(*inputs)
