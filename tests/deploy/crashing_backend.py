"""Back-ends as vendors sometimes ship them; importable from a child process."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from torch import Tensor

from holdfast.core.contracts import Artefact
from holdfast.core.errors import BackendError


@dataclass(frozen=True, kw_only=True)
class Crashing:
    """Does with each input what its first number says: nothing, ``refuse``, ``abort``, ``hang``."""

    def load(self, artefact: Artefact) -> Crashing:
        return self

    def __call__(self, x: Tensor) -> dict[str, Tensor]:
        _do(["", "refuse", "abort", "hang"][int(x[0, 0])])
        return {"doubled": x * 2}

    def executed_precision(self) -> str:
        return "fp32"


def _do(what: str) -> None:
    if what == "abort":
        os.abort()
    if what == "hang":
        time.sleep(600)
    if what == "raise":
        raise ValueError("something inside")
    if what == "refuse":
        raise BackendError("not this input", where="engine", fix="another one")


def build(what: str) -> str:
    """Stands for building an engine."""
    _do(what)
    return f"built {what}"
