"""The hand-written steps with another library's attack or mixture in them, where that library is installed."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Callable
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

import numpy as np
from by_hand import ALPHA, EPS, STEPS, Step
from torch import Tensor, from_numpy, nn
from torch.nn.functional import cross_entropy

Attack = Callable[[Tensor, Tensor], Tensor]
PACKAGES = {
    "torchattacks": "torchattacks",
    "foolbox": "foolbox",
    "ART": "adversarial-robustness-toolbox",
    "torch-uncertainty": "torch-uncertainty",
}
"""Of the contenders; torch-uncertainty has a RegMixup, the others attacks."""


def installed(peer: str) -> str:
    """Version, or the reason why the peer is left out."""
    try:
        return version(PACKAGES[peer])
    except PackageNotFoundError:
        return "left out, not installed"


def steps(method: str, classes: int) -> dict[str, Step]:
    """What is there of a method, by peer."""
    there = [peer for peer in PACKAGES if not installed(peer).startswith("left out")]
    warnings.simplefilter("ignore")
    # Their torchvision need not load beside a CPU build of torch, and timm is not used here.
    for stub in ("torchvision", "torchvision.models", "torchvision.transforms", "torchvision.datasets"):
        sys.modules.setdefault(stub, ModuleType(stub))
    if method == "regmixup" and "torch-uncertainty" in there:
        return {"torch-uncertainty": _regmixup(classes)}
    build = {"torchattacks": torchattacks, "foolbox": foolbox, "ART": art}
    if method not in ("fgsm", "pgd"):
        return {}
    return {peer: _Attacked(partial(build[peer], method), method) for peer in there if peer in build}


class _Attacked:
    """An attack made for the model at the first step; what is trained on is as in `by_hand`."""

    def __init__(self, build: Callable[[nn.Module], Attack], method: str) -> None:
        self.build, self.method = build, method
        self.attack: Attack | None = None

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, u: Tensor) -> None:
        self.attack = self.attack or self.build(model)
        model.eval()
        moved = self.attack(x, y)
        model.train()
        model.zero_grad(set_to_none=True)  # some leave gradients of the weights
        if self.method == "fgsm":
            (0.5 * cross_entropy(model(x), y) + 0.5 * cross_entropy(model(moved), y)).backward()
        else:
            cross_entropy(model(moved), y).backward()


def torchattacks(method: str, model: nn.Module) -> Attack:
    import torchattacks as library

    if method == "fgsm":
        return library.FGSM(model, eps=EPS)
    return library.PGD(model, eps=EPS, alpha=ALPHA, steps=STEPS)


def foolbox(method: str, model: nn.Module) -> Attack:
    import foolbox as library

    wrapped = library.PyTorchModel(model.eval(), bounds=(0, 1))
    attack = (
        library.attacks.LinfFastGradientAttack()
        if method == "fgsm"
        else library.attacks.LinfPGD(steps=STEPS, abs_stepsize=ALPHA)
    )
    return lambda x, y: attack(wrapped, x, y, epsilons=[EPS])[1][0]


def art(method: str, model: nn.Module) -> Attack:
    from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    estimator = PyTorchClassifier(model, nn.CrossEntropyLoss(), (1, 28, 28), 10, clip_values=(0, 1))
    if method == "fgsm":
        attack = FastGradientMethod(estimator, eps=EPS, batch_size=1024)
    else:
        attack = ProjectedGradientDescentPyTorch(estimator, norm=np.inf, eps=EPS, eps_step=ALPHA, max_iter=STEPS,
                                                 num_random_init=1, batch_size=1024, verbose=False)  # fmt: skip
    return lambda x, y: from_numpy(attack.generate(x.numpy(), y.numpy()))


def _regmixup(classes: int) -> Step:
    mix = _transform("mixup").RegMixup(alpha=10.0, num_classes=classes, isobatch=True)

    def step(model: nn.Module, x: Tensor, y: Tensor, u: Tensor) -> None:
        both, targets = mix(x, y)
        (2 * cross_entropy(model(both), targets)).backward()  # their mean over both halves is half the paper's sum

    return step


@cache
def _transform(name: str) -> Any:
    """One file of the package: importing all of it needs torchvision and timm, which its RegMixup does not."""
    [folder] = importlib.util.find_spec("torch_uncertainty").submodule_search_locations
    for stub, attribute in (("timm.data.mixup", "Mixup"), ("torch_uncertainty.layers", "Identity")):
        parts = stub.split(".")
        for i in range(len(parts)):
            sys.modules.setdefault(".".join(parts[: i + 1]), ModuleType(parts[i]))
        setattr(sys.modules[stub], attribute, nn.Identity)
    spec = importlib.util.spec_from_file_location(f"{name}_alone", f"{folder}/transforms/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
