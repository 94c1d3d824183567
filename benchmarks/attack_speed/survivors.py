"""What it saves that broken samples leave the batch: PGD beside torchattacks, and the standard ensemble.

python benchmarks/attack_speed/survivors.py pgd [rounds] > benchmarks/attack_speed/survivors.txt
python benchmarks/attack_speed/survivors.py ensemble [samples] > benchmarks/attack_speed/ensemble.txt

MNIST and a small convolutional network trained on FGSM. CPU time of one thread, contenders interleaved. Needs
HOLDFAST_DATA; torchattacks is left out where it is not installed.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from holdfast.attacks.aim import Aim
from holdfast.attacks.autoattack import AutoAttack
from holdfast.attacks.fgsm import FGSM
from holdfast.attacks.pgd import PGD
from holdfast.attacks.seal import perturb
from holdfast.core.contracts import Attack
from holdfast.core.fingerprint import environment
from holdfast.core.space import Leaf
from holdfast.data.sources import data_root, read_idx
from holdfast.deploy.subjects import open_subject

UNIT = Leaf(unit=1.0)
EPS, BATCH = 0.2, 128


class Counting(nn.Module):
    """Counts samples by whether their forward is followed by a backward."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.with_gradient, self.without = model, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad and torch.is_grad_enabled():
            self.with_gradient += len(x)
        else:
            self.without += len(x)
        return self.model(x)


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64 * 49, 10),
    )  # fmt: skip


def digits(part: str, first: int, end: int) -> tuple[Tensor, Tensor]:
    x = read_idx(data_root("mnist", f"{part}-images-idx3-ubyte.gz"))[first:end]
    y = read_idx(data_root("mnist", f"{part}-labels-idx1-ubyte.gz"))[first:end]
    return torch.from_numpy(x[:, None].astype(np.float32) / 255), torch.from_numpy(y.astype(np.int64))


def trained(steps: int = 300) -> nn.Module:
    torch.manual_seed(0)
    model, (x, y), draws = network(), digits("train", 0, 64 * steps), torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(steps):
        part, labels = x[step * 64 :][:64], y[step * 64 :][:64]
        error = lambda z, labels=labels: cross_entropy(model(z), labels, reduction="none")  # noqa: E731 - as a user writes it
        adversarial = perturb(FGSM(eps=EPS), error, part, UNIT, draws, model)
        loss = 0.5 * cross_entropy(model(part), labels) + 0.5 * cross_entropy(model(adversarial), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval().requires_grad_(False)


def aim_of(model: Callable[[Tensor], Tensor], y: Tensor, *, leave: bool = True) -> Aim:
    return Aim(forward=lambda z, _: model(z), batch=y, labels=y,
               error=lambda logits, y: cross_entropy(logits, y, reduction="none"),
               failed=(lambda logits, y: logits.argmax(1) != y) if leave else None)  # fmt: skip


def ours(attack: Attack, model: nn.Module, x: Tensor, y: Tensor, *, leave: bool = True) -> Tensor:
    return perturb(attack, aim_of(model, y, leave=leave), x, UNIT, torch.Generator().manual_seed(0), model)


def torchattacks() -> ModuleType | None:
    """torchattacks where it is installed. Its torchvision need not load beside a CPU torch: it is not used here."""
    if find_spec("torchattacks") is None:
        return None
    for stub in ("torchvision", "torchvision.models", "torchvision.transforms", "torchvision.datasets"):
        sys.modules.setdefault(stub, ModuleType(stub))
    import torchattacks

    return torchattacks


def unit_costs(model: nn.Module, x: Tensor, y: Tensor, rounds: int = 15) -> tuple[float, float]:
    """Seconds a sample of a forward, and of a forward with a backward to the input, in a full batch."""
    forward, both = [], []
    for _ in range(rounds):
        began = time.process_time()
        with torch.no_grad():
            model(x)
        middle = time.process_time()
        z = x.clone().requires_grad_()
        torch.autograd.grad(cross_entropy(model(z), y, reduction="sum"), z)
        forward.append(middle - began)
        both.append(time.process_time() - middle)
    return statistics.median(forward) / len(x), statistics.median(both) / len(x)


def survivors_only(rounds: int) -> None:
    model = trained()
    x, y = digits("t10k", 0, 2 * BATCH)
    right = model(x).argmax(1) == y
    x, y = x[right][:BATCH], y[right][:BATCH]
    peer = torchattacks()
    print(f"PGD, {BATCH} digits that are classified rightly, ratio of CPU time to survivors only, {rounds} rounds")
    print("  eps steps  survive   passes      due  all stay  torchattacks     quartiles")
    for eps, steps in ((0.22, 20), (0.26, 100), (0.4, 20)):
        attack = PGD(eps=eps, alpha=eps / 8, steps=steps)
        counted = Counting(model)
        found = ours(attack, counted, x, y)
        survive = float((model(found).argmax(1) == y).float().mean())
        due = looks(model, x, y, eps, steps)
        contenders = {"ours": lambda a=attack: ours(a, model, x, y),
                      "all": lambda a=attack: ours(a, model, x, y, leave=False)}  # fmt: skip
        if peer is not None:
            theirs = peer.PGD(model, eps=eps, alpha=eps / 8, steps=steps)
            contenders["peer"] = lambda t=theirs: t(x, y)
        times = interleaved(contenders, rounds)
        ratios = {name: [b / a for a, b in zip(times["ours"], took, strict=True)] for name, took in times.items()}
        low, middle, high = statistics.quantiles(ratios.get("peer", [float("nan")] * 2), n=4)
        stay = statistics.median(ratios["all"])
        print(f"{eps:5} {steps:5} {survive:8.3f} {counted.with_gradient:8} {due:8} {stay:9.2f} {middle:13.2f} "
              f"{low:6.2f} {high:6.2f}", flush=True)  # fmt: skip


def looks(model: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int) -> int:
    """Sum over samples of the steps up to the one that breaks it, from a run in which all stay."""
    seen: list[Tensor] = []

    def watched(z: Tensor) -> Tensor:
        logits = model(z)
        if z.requires_grad:
            seen.append(logits.argmax(1) != y)
        return logits

    ours(PGD(eps=eps, alpha=eps / 8, steps=steps), watched, x, y, leave=False)
    broken = torch.stack(seen)
    return int(torch.where(broken.any(0), broken.double().argmax(0) + 1, len(broken)).sum())


def interleaved(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    names, times = list(contenders), {name: [] for name in contenders}
    for round_ in range(rounds + 1):
        for name in names[round_ % len(names) :] + names[: round_ % len(names)]:
            began = time.process_time()
            contenders[name]()
            if round_:  # the first round warms up
                times[name].append(time.process_time() - began)
    return times


def ensemble(samples: int) -> None:
    """The standard ensemble: the eager model, ONNX Runtime for Square's queries, torchattacks' members in its place."""
    model = trained()
    x, y = digits("t10k", 0, samples)
    right = model(x).argmax(1) == y
    forward, both = unit_costs(model, x[:BATCH], y[:BATCH])
    print(f"standard ensemble, eps {EPS}, {samples} digits, clean {float(right.float().mean()):.3f}")
    print(f"{'contender':26}       s  forwards backwards  price, s  ratio  robust verdicts")
    with TemporaryDirectory() as folder:
        session = open_subject("onnxruntime:fp32", model, (x[:2],), None, Path(folder))
        contenders = {
            "holdfast": lambda counted: standard(counted, x, y),
            "holdfast, queries by ORT": lambda counted: standard(counted, x, y, session.run),
            "torchattacks' members": lambda counted: peers(counted, x, y, right),
        }
        reference: Tensor | None = None
        for name, run in contenders.items():
            counted = Counting(model)
            began = time.process_time()
            robust = run(counted)
            took = time.process_time() - began
            if robust is None:
                continue
            reference = robust if reference is None else reference
            price = counted.without * forward + counted.with_gradient * both
            agree = float((robust == reference).float().mean())
            forwards, held = counted.without + counted.with_gradient, float(robust.float().mean())
            print(f"{name:26} {took:7.1f} {forwards:9} {counted.with_gradient:9} {price:9.1f} {took / price:6.3f} "
                  f"{held:7.3f} {agree:8.4f}", flush=True)  # fmt: skip


def standard(model: Counting, x: Tensor, y: Tensor, query: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Who holds, bool (B,)."""

    def ask(z: Tensor, _: Tensor) -> Tensor:
        model.without += len(z)  # counted as if the model had been asked
        assert query is not None
        return query(z)

    aim = replace(aim_of(model, y), query=ask if query else None)
    found = perturb(AutoAttack(eps=EPS), aim, x, UNIT, torch.Generator().manual_seed(0), model)
    return model(found).argmax(1) == y


def peers(model: Counting, x: Tensor, y: Tensor, right: Tensor) -> Tensor | None:
    """Who holds against torchattacks' members at the standard's steps, each on what the ones before left over."""
    peer = torchattacks()
    if peer is None:
        return None
    shared = {"norm": "Linf", "eps": EPS}
    members = [
        peer.APGD(model, **shared, steps=100, loss="ce"),
        peer.APGDT(model, **shared, steps=100, n_classes=10),
        peer.FAB(model, **shared, steps=100, multi_targeted=True, n_classes=10),
        peer.Square(model, **shared, n_queries=5000, resc_schedule=False),
    ]
    robust = right.clone()
    for member in members:
        rows = robust.nonzero().squeeze(1)
        if len(rows):
            z = member(x[rows], y[rows])
            inside = (z - x[rows]).flatten(1).abs().amax(1) <= EPS * (1 + 1e-5)
            robust[rows] = ~((model(z).argmax(1) != y[rows]) & inside)
    return robust


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    what, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else None
    print({key: value for key, value in environment().items() if key != "time"})
    if what == "pgd":
        survivors_only(count or 7)
    else:
        ensemble(count or 64)


if __name__ == "__main__":
    main()
