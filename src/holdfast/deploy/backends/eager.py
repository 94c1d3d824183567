"""PyTorch itself, in a real dtype: the reference, and the slow but true half precision of a CPU."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from holdfast.core.contracts import Artefact, Availability, Outputs, PrecisionPlan
from holdfast.core.errors import BackendError
from holdfast.deploy.identity import digest, versions, weights_key
from holdfast.deploy.module_session import ModuleSession
from holdfast.deploy.nest import map_tensors
from holdfast.deploy.plans import require

__all__ = ["Eager"]

_DTYPES = {"fp32": torch.float32, "fp64": torch.float64, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Eager:
    """The model in eval mode, its weights and inputs in the plan's dtype.

    Half-precision outputs come back as fp32, so that metrics are computed in fp32. On most CPUs fp16 is ten to
    a hundred times slower than fp32: use the ``emulated`` back-end for sweeps.
    """

    precisions: ClassVar[tuple[str, ...]] = tuple(_DTYPES)

    def probe(self) -> Availability:
        """Always there."""
        native = dict.fromkeys(self.precisions, "native")
        return Availability(ok=True, reason="part of torch", version=torch.__version__, precisions=native)

    def prepare(
        self, model: nn.Module, example: tuple[Tensor, ...], plan: PrecisionPlan,
        calibration: Iterable[tuple[Tensor, ...]] | None, folder: Path,
    ) -> Artefact:  # fmt: skip
        """Copy the model in the plan's dtype; nothing is written and calibration is not needed.

        Raises:
            BackendError: another precision, or the model cannot run in this one.
        """
        require(plan, self.precisions, where="eager")
        module = InPrecision(model, plan.default)
        try:
            with torch.no_grad():
                module(*example)
        except RuntimeError as error:
            raise BackendError(
                f"{type(model).__name__} cannot run in {plan.default}: {str(error).splitlines()[0]}",
                where="eager",
                fix="make constants inside forward take their dtype from the input",
            ) from error
        key = digest("eager", plan.default, weights_key(model), versions("torch"))
        return Artefact(backend="eager", plan=plan, key=key, module=module)

    def load(self, artefact: Artefact) -> ModuleSession:
        """Run the artefact's module without gradients."""
        assert artefact.module is not None, "an eager artefact holds a module"
        return ModuleSession(artefact.module, artefact.plan.default, where="eager")


class InPrecision(nn.Module):
    """A module in another dtype behind the original interface: floating inputs are cast to it, halves back to fp32."""

    def __init__(self, model: nn.Module, precision: str) -> None:
        super().__init__()
        self.dtype = _DTYPES[precision]
        self.model = copy.deepcopy(model).eval().cpu()
        if precision != "fp32":
            self.model.to(self.dtype)

    def forward(self, *inputs: Tensor) -> Outputs:
        """Cast, run, cast back."""
        if self.dtype is torch.float32:
            return self.model(*inputs)
        outputs = self.model(*(x.to(self.dtype) if x.is_floating_point() else x for x in inputs))
        return map_tensors(_widen, outputs)


def _widen(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
