"""holdfast: how a model breaks between training and deployment, and what keeps it from breaking.

Public names are imported when they are first used, so ``import holdfast`` stays light and leaves torch out.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.attacks.fgsm import FGSM
    from holdfast.attacks.pgd import PGD
    from holdfast.core.contracts import Drift, Metric, Picture, Task, Term
    from holdfast.core.space import InputSpace, Leaf
    from holdfast.methods.adversarial import Adversarial
    from holdfast.methods.preprocess_jitter import PreprocessJitter
    from holdfast.train.objective import Objective
    from holdfast.weights.ema import EMA

HOMES = {
    "Adversarial": "holdfast.methods.adversarial",
    "Drift": "holdfast.core.contracts",
    "EMA": "holdfast.weights.ema",
    "FGSM": "holdfast.attacks.fgsm",
    "InputSpace": "holdfast.core.space",
    "Leaf": "holdfast.core.space",
    "Metric": "holdfast.core.contracts",
    "Objective": "holdfast.train.objective",
    "PGD": "holdfast.attacks.pgd",
    "Picture": "holdfast.core.contracts",
    "PreprocessJitter": "holdfast.methods.preprocess_jitter",
    "Task": "holdfast.core.contracts",
    "Term": "holdfast.core.contracts",
}
"""Module by public name that the type checker knows; the classes of all other plug-ins are found by name."""

__all__ = [
    "EMA", "FGSM", "HOMES", "PGD", "Adversarial", "Drift", "InputSpace", "Leaf", "Metric", "Objective", "Picture",
    "PreprocessJitter", "Task", "Term", "home_of",
]  # fmt: skip


def home_of(name: str) -> str:
    """The module of a public name: one of `HOMES`, or the class of a plug-in; empty when there is none."""
    if name in HOMES or not name[:1].isupper():
        return HOMES.get(name, "")
    catalogue = import_module("holdfast.core.catalogue")
    found = (plug_in for kind in ("method", "surgery", "average", "attack") for plug_in in catalogue.describe(kind))
    return next((plug_in.module for plug_in in found if plug_in.attribute == name), "")


def __getattr__(name: str) -> Any:
    home = home_of(name)
    if not home:
        raise AttributeError(f"module 'holdfast' has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return __all__
