"""Price of an attack: its CPU time over that of the bare passes it needs, beside torchattacks, Foolbox and ART.

python benchmarks/attack_speed/measure.py [rounds] [cnn|linear] > benchmarks/attack_speed/log.txt

Peers that are not installed are left out. All contenders are interleaved in one process, in rotating order.
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn

from holdfast.attacks.fgsm import FGSM
from holdfast.attacks.pgd import PGD
from holdfast.attacks.seal import perturb
from holdfast.core.contracts import Attack
from holdfast.core.fingerprint import environment
from holdfast.core.space import Leaf

EPS, STEPS, BATCH = 8 / 255, 20, 128
Run = Callable[[], object]


def small_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64 * 64, 10),
    )  # fmt: skip


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))


def bare_passes(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> Run:
    """``steps`` forwards with backwards to the input and nothing else."""

    def run() -> None:
        for p in model.parameters():
            p.requires_grad_(False)
        for _ in range(steps):
            z = x.detach().requires_grad_()
            torch.autograd.grad(nn.functional.cross_entropy(model(z), y, reduction="sum"), z)
        for p in model.parameters():
            p.requires_grad_(True)

    return run


def by_hand(kind: str, model: nn.Module, x: Tensor, y: Tensor) -> Run:
    """The least that an L-infinity attack can be written in, without any promise."""
    steps, alpha = (1, EPS) if kind == "FGSM" else (STEPS, EPS / 4)

    def run() -> Tensor:
        for p in model.parameters():
            p.requires_grad_(False)
        z, low, high = x, (x - EPS).clamp_(min=0), (x + EPS).clamp_(max=1)
        if steps > 1:
            z = (torch.rand_like(x) * (2 * EPS) - EPS).add_(x).clamp_(low, high)
        for _ in range(steps):
            z = z.detach().requires_grad_()
            gradient = torch.autograd.grad(nn.functional.cross_entropy(model(z), y, reduction="sum"), z)[0]
            z = gradient.sign_().mul_(alpha).add_(z.detach()).clamp_(low, high)
        for p in model.parameters():
            p.requires_grad_(True)
        return z

    return run


def ours(attack: Attack, model: nn.Module, x: Tensor, y: Tensor) -> Run:
    draw = torch.Generator().manual_seed(0)
    loss = lambda z: nn.functional.cross_entropy(model(z), y, reduction="none")  # noqa: E731 - as a user writes it
    return lambda: perturb(attack, loss, x, Leaf(), draw, model)


def peers(kind: str, model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Run]:
    found: dict[str, Run] = {}
    l2 = kind.endswith("L2")
    eps, alpha = (255 * EPS / 4, 255 * EPS / 40) if l2 else (EPS, EPS / 4)
    # Their torchvision need not load beside a CPU build of torch: it is not used here.
    for stub in ("torchvision", "torchvision.models", "torchvision.transforms", "torchvision.datasets"):
        sys.modules.setdefault(stub, ModuleType(stub))
    if importlib.util.find_spec("torchattacks"):
        import torchattacks

        attack = (torchattacks.FGSM(model, eps=EPS) if kind == "FGSM"
                  else torchattacks.PGDL2(model, eps=eps, alpha=alpha, steps=STEPS) if l2
                  else torchattacks.PGD(model, eps=EPS, alpha=alpha, steps=STEPS))  # fmt: skip
        found["torchattacks"] = lambda: attack(x, y)
    if importlib.util.find_spec("foolbox"):
        import foolbox

        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
        fool = (foolbox.attacks.LinfFastGradientAttack() if kind == "FGSM"
                else foolbox.attacks.L2PGD(steps=STEPS, abs_stepsize=alpha) if l2
                else foolbox.attacks.LinfPGD(steps=STEPS, abs_stepsize=alpha))  # fmt: skip
        found["foolbox"] = lambda: fool(wrapped, x, y, epsilons=[eps])
    if importlib.util.find_spec("art"):
        from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescentPyTorch
        from art.estimators.classification import PyTorchClassifier

        estimator = PyTorchClassifier(model, nn.CrossEntropyLoss(), (3, 32, 32), 10, clip_values=(0, 1))
        norm = 2 if l2 else np.inf
        art = (FastGradientMethod(estimator, eps=EPS, batch_size=BATCH) if kind == "FGSM"
               else ProjectedGradientDescentPyTorch(estimator, norm=norm, eps=eps, eps_step=alpha, max_iter=STEPS,
                                                    num_random_init=1, batch_size=BATCH, verbose=False))  # fmt: skip
        found["ART"] = lambda: art.generate(x.numpy(), y.numpy())
    return found


def attack_of(kind: str) -> Attack:
    if kind == "FGSM":
        return FGSM(eps=255 * EPS)
    return PGD(eps=255 * EPS * (255 / 4 if kind.endswith("L2") else 1), steps=STEPS,
               norm="l2" if kind.endswith("L2") else "linf")  # fmt: skip


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def measure(contenders: dict[str, Run], rounds: int) -> dict[str, list[float]]:
    names, times = list(contenders), {name: [] for name in contenders}
    for round_ in range(rounds + 1):
        for name in names[round_ % len(names) :] + names[: round_ % len(names)]:
            began = time.process_time()
            contenders[name]()
            if round_:  # the first round warms up
                times[name].append(time.process_time() - began)
    return times


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    g = torch.Generator().manual_seed(0)
    x, y = torch.rand(BATCH, 3, 32, 32, generator=g), torch.randint(0, 10, (BATCH,), generator=g)
    print({key: value for key, value in environment().items() if key != "time"})
    for peer in ("torchattacks", "foolbox", "adversarial-robustness-toolbox"):
        print(peer, installed(peer))
    print(f"batch {BATCH} of 3x32x32, one thread, CPU time, {rounds} interleaved rounds, ratio to the bare passes")
    print(f"{'model':8} {'attack':9} {'contender':13} {'ms':>9} {'ratio':>7} {'quartiles':>15}")
    chosen = sys.argv[2:] or ["cnn", "linear"]
    for model_name, build in (
        (name, model) for name, model in (("cnn", small_cnn), ("linear", linear)) if name in chosen
    ):
        for kind in ("FGSM", "PGD-20", "PGD-20 L2"):
            torch.manual_seed(0)
            model = build().eval()
            repeats = 1 if model_name == "cnn" else 10 if kind == "FGSM" else 1
            contenders = {
                "bare passes": bare_passes(model, x, y, 1 if kind == "FGSM" else STEPS),
                "holdfast": ours(attack_of(kind), model, x, y),
                **({} if kind.endswith("L2") else {"by hand": by_hand(kind, model, x, y)}),
                **peers(kind, model, x, y),
            }
            repeated = {name: _repeat(run, repeats) for name, run in contenders.items()}
            times = measure(repeated, rounds)
            for name, found in times.items():
                ratios = [t / b for t, b in zip(found, times["bare passes"], strict=True)]
                low, middle, high = statistics.quantiles(ratios, n=4)
                ms = 1e3 * statistics.median(found) / repeats
                print(f"{model_name:8} {kind:9} {name:13} {ms:9.2f} {middle:7.3f} {low:7.3f} {high:7.3f}", flush=True)


def _repeat(run: Run, times: int) -> Run:
    return lambda: [run() for _ in range(times)]


if __name__ == "__main__":
    main()
