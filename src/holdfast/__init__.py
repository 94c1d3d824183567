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
"""Module by public name; the type checker reads the imports above, and a test keeps the two in step."""

__all__ = [
    "EMA", "FGSM", "HOMES", "PGD", "Adversarial", "Drift", "InputSpace", "Leaf", "Metric", "Objective", "Picture",
    "PreprocessJitter", "Task", "Term",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'holdfast' has no attribute {name!r}")
    return getattr(import_module(HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
