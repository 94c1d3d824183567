"""torch.compile on the CPU: fused kernels, whose sums run in another order than eager PyTorch's."""

from __future__ import annotations

import copy
import os
import shutil
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from holdfast.core.contracts import Artefact, Availability, PrecisionPlan
from holdfast.core.errors import BackendError
from holdfast.deploy.export import quiet
from holdfast.deploy.identity import digest, versions, weights_key
from holdfast.deploy.module_session import ModuleSession
from holdfast.deploy.plans import require

__all__ = ["Compiled"]


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """The model in eval mode, compiled as one graph by Inductor, the batch size dynamic.

    A model that Inductor can only compile in pieces is refused: what ran between them would be eager PyTorch.
    """

    precisions: ClassVar[tuple[str, ...]] = ("fp32",)

    def probe(self) -> Availability:
        """Whether there is what Inductor compiles with: a C++ compiler, and Python's headers."""
        compiler = os.environ.get("CXX", "g++")
        if shutil.which(compiler) is None:
            return Availability(ok=False, reason=f"no C++ compiler {compiler!r}: install g++, or set CXX")
        if not Path(sysconfig.get_paths()["include"], "Python.h").is_file():
            return Availability(ok=False, reason="no Python.h: install python3-dev")
        return Availability(ok=True, reason="Inductor", version=torch.__version__, precisions={"fp32": "native"})

    def prepare(
        self, model: nn.Module, example: tuple[Tensor, ...], plan: PrecisionPlan,
        calibration: Iterable[tuple[Tensor, ...]] | None, folder: Path,
    ) -> Artefact:  # fmt: skip
        """Compile a copy of the model; nothing is written into the folder and calibration is not needed.

        Raises:
            BackendError: another precision, or a model that is not one graph.
        """
        require(plan, self.precisions, where="compiled")
        module: Any = torch.compile(copy.deepcopy(model).eval().cpu(), fullgraph=True, dynamic=True)
        try:
            with quiet(), torch.no_grad():
                module(*example)
        except Exception as error:  # tracer, scheduler and C++ compiler each have their own
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise BackendError(
                f"{type(model).__name__} is not compiled as one graph: {reason}", where="compiled",
                fix="keep control flow that depends on values out of forward",
            ) from error  # fmt: skip
        return Artefact(
            backend="compiled", plan=plan, module=module, key=digest("compiled", weights_key(model), versions("torch"))
        )

    def load(self, artefact: Artefact) -> ModuleSession:
        """Run the compiled module without gradients."""
        assert artefact.module is not None, "a compiled artefact holds a module"
        return ModuleSession(artefact.module, artefact.plan.default, where="compiled")
