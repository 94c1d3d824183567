"""What it saves that broken samples leave the batch: PGD beside torchattacks, and the standard ensemble.

python benchmarks/attack_speed/survivors.py pgd EPS STEPS [rounds] >> benchmarks/attack_speed/rows.jsonl
python benchmarks/attack_speed/survivors.py ensemble CONTENDER [samples] [MODEL] >> .../rows.jsonl
python benchmarks/attack_speed/survivors.py report < .../rows.jsonl > .../survivors.txt

MNIST and a network trained on FGSM: MODEL is small, wide, wider (of 0.4, 1.3 and 1.9 MMAC), fcn or linear; or it is
resnet20, that of somebody else on CIFAR-10. CPU time of one thread. PGD's contenders are interleaved, those of the
ensemble are one a process: holdfast, ort (holdfast with ONNX Runtime as its engine), original (`pip install
pyautoattack`), torchattacks. Needs HOLDFAST_DATA.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

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
from holdfast.data.sources import data_root, read_idx, read_jpegs
from holdfast.deploy.differentiable import Differentiable
from holdfast.models.small_cnn import SmallCNN
from holdfast.weights.files import load

UNIT = Leaf(unit=1.0)
MODELS: dict[str, Callable[[], nn.Module]] = {
    "small": lambda: SmallCNN(norm=False),
    "wide": lambda: SmallCNN(norm=False, widths=(32, 64)),
    "wider": lambda: SmallCNN(norm=False, widths=(32, 96)),
    "fcn": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(),
        nn.Linear(256, 10),
    ),
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10)),
}  # fmt: skip
EPS, BATCH = 0.2, 128
EPS_OF = {"small": EPS, "wide": EPS, "wider": EPS, "fcn": 0.1, "linear": 0.1, "resnet20": 0.5 / 255}
"""Where some of the samples hold."""


class Counting(nn.Module):
    """Counts passes, and times every fiftieth bare beside it: what the same passes cost and nothing else.

    A load that changes while an attack runs thus meets both. ``aside_s`` are the seconds that this takes.
    """

    EVERY = 50

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.aside_s = model, 0.0
        self.passes, self.priced = Counter[tuple[int, bool]](), defaultdict[tuple[int, bool], list[float]](list)

    def forward(self, x: Tensor) -> Tensor:
        self.note(x, backward=x.requires_grad and torch.is_grad_enabled())
        return self.model(x)

    def note(self, x: Tensor, *, backward: bool) -> None:
        key = len(x), backward
        if self.passes[key] % self.EVERY == 0:
            began = time.process_time()
            cost_s(self.model, x.detach(), backward=backward)  # finds the caches as the engine in use left them
            self.priced[key].append(cost_s(self.model, x.detach(), backward=backward))
            self.aside_s += time.process_time() - began
        self.passes[key] += 1

    def samples(self, *, backward: bool) -> int:
        return sum(size * count for (size, gradient), count in self.passes.items() if gradient == backward)

    def price_s(self) -> float:
        return sum(count * statistics.mean(self.priced[key]) for key, count in self.passes.items())


def digits(part: str, first: int, end: int) -> tuple[Tensor, Tensor]:
    x = read_idx(data_root("mnist", f"{part}-images-idx3-ubyte.gz"))[first:end]
    y = read_idx(data_root("mnist", f"{part}-labels-idx1-ubyte.gz"))[first:end]
    return torch.from_numpy(x[:, None].astype(np.float32) / 255), torch.from_numpy(y.astype(np.int64))


def trained(steps: int = 150, *, size: str = "small") -> nn.Module:
    torch.manual_seed(0)
    (x, y), draws = digits("train", 0, 64 * steps), torch.Generator().manual_seed(0)
    model = MODELS[size]()
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


def handwriting(size: str, samples: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A network of `MODELS` trained on digits, and other digits."""
    return trained(size=size), *digits("t10k", 0, samples)


def pictures(samples: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A third-party ResNet-20 and pictures of CIFAR-10."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "resnet20_cifar"))
    from task import FILES, MEAN, STD, ResNet20

    model = ResNet20()
    model.load_state_dict(load(data_root("models", "cifar10_resnet20_akamaster.th"))[0])
    images, labels = read_jpegs(data_root("cifar10_jpeg", FILES["report"]))
    x, y = torch.from_numpy(images[:samples]).float() / 255, torch.from_numpy(labels[:samples].astype(np.int64))
    return nn.Sequential(Normalised(MEAN, STD), model).eval().requires_grad_(False), x, y


class Normalised(nn.Module):
    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def aim_of(model: Callable[[Tensor], Tensor], y: Tensor, *, leave: bool = True) -> Aim:
    return Aim(forward=lambda z, _: model(z), batch=y, labels=y,
               error=lambda logits, y: cross_entropy(logits, y, reduction="none"),
               failed=(lambda logits, y: logits.argmax(1) != y) if leave else None)  # fmt: skip


def ours(attack: Attack, model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, *, leave: bool = True) -> Tensor:
    module = model if isinstance(model, nn.Module) else None
    return perturb(attack, aim_of(model, y, leave=leave), x, UNIT, torch.Generator().manual_seed(0), module)


def torchattacks() -> ModuleType | None:
    """torchattacks where it is installed. Its torchvision need not load beside a CPU torch: it is not used here."""
    if find_spec("torchattacks") is None:
        return None
    for stub in ("torchvision", "torchvision.models", "torchvision.transforms", "torchvision.datasets"):
        sys.modules.setdefault(stub, ModuleType(stub))
    import torchattacks

    return torchattacks


def cost_s(model: nn.Module, x: Tensor, *, backward: bool) -> float:
    """Seconds of a forward, or of a forward with a backward to the input."""
    began = time.process_time()
    z = x.clone().requires_grad_(backward)
    with torch.set_grad_enabled(backward):
        logits = model(z)
    if backward:
        torch.autograd.grad(cross_entropy(logits, logits.argmax(1), reduction="sum"), z)
    return time.process_time() - began


def survivors_only(eps: float, steps: int, rounds: int) -> dict[str, object]:
    """PGD with the broken leaving, with all staying, and torchattacks'; ratios of CPU time to the first, by round."""
    model = trained()
    x, y = digits("t10k", 0, 2 * BATCH)
    right = model(x).argmax(1) == y
    x, y = x[right][:BATCH], y[right][:BATCH]
    attack, counted, peer = PGD(eps=eps, alpha=eps / 8, steps=steps), Counting(model), torchattacks()
    found = ours(attack, counted, x, y)
    survive = float((model(found).argmax(1) == y).float().mean())
    contenders = {"ours": lambda: ours(attack, model, x, y), "all stay": lambda: ours(attack, model, x, y, leave=False),
                  "bare passes": lambda: bare(model, x, y, steps)}  # fmt: skip
    if peer is not None:
        theirs = peer.PGD(model, eps=eps, alpha=eps / 8, steps=steps)
        contenders["torchattacks"] = lambda: theirs(x, y)
    times = interleaved(contenders, rounds)
    ratios = {name: [b / a for a, b in zip(times["ours"], took, strict=True)] for name, took in times.items()}
    return {"what": "pgd", "eps": eps, "steps": steps, "n": len(x), "survive": survive, "rounds": rounds,
            "passes": counted.samples(backward=True), "due": looks(model, x, y, eps, steps),
            "over_bare": [a / b for a, b in zip(times["all stay"], times["bare passes"], strict=True)],
            "ratios": ratios}  # fmt: skip


def bare(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> None:
    """The passes of PGD with all samples and nothing else."""
    for _ in range(steps):
        z = x.detach().requires_grad_()
        torch.autograd.grad(cross_entropy(model(z), y, reduction="sum"), z)


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


def ensemble(contender: str, samples: int, size: str) -> dict[str, object]:
    """The standard ensemble once: eager, with ONNX Runtime as its engine, the original, or torchattacks' members."""
    eps, (model, x, y) = EPS_OF[size], pictures(samples) if size == "resnet20" else handwriting(size, samples)
    right = model(x).argmax(1) == y
    counted = Counting(model)
    began = time.process_time()
    engine = Differentiable(model, (x[:2],)) if contender == "ort" else None
    translation_s = time.process_time() - began
    began = time.process_time()
    if contender == "original":
        robust = original(counted, x, y, eps)
    elif contender == "torchattacks":
        robust = peers(counted, x, y, right, eps)
    else:
        robust = standard(counted, x, y, eps, engine)
    took = time.process_time() - began - counted.aside_s
    return {"what": "ensemble", "contender": contender, "size": size, "eps": eps, "n": samples, "cpu_s": took,
            "translation_s": translation_s,
            "forwards": counted.samples(backward=False) + counted.samples(backward=True),
            "backwards": counted.samples(backward=True), "price_s": counted.price_s(),
            "clean": float(right.float().mean()),
            "verdicts": "".join("01"[int(r)] for r in robust)}  # fmt: skip


def standard(
    model: Counting, x: Tensor, y: Tensor, eps: float, engine: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Who holds, bool (B,)."""

    def ask(z: Tensor, _: Tensor) -> Tensor:
        model.note(z, backward=z.requires_grad and torch.is_grad_enabled())  # as if the model had been asked
        assert engine is not None
        return engine(z)

    aim = replace(aim_of(model, y), engine=ask if engine else None)
    found = perturb(AutoAttack(eps=eps), aim, x, UNIT, torch.Generator().manual_seed(0), model)
    return model(found).argmax(1) == y


def original(model: Counting, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Who holds against the original's standard version, its checks of the model included."""
    import pyautoattack

    attack = pyautoattack.AutoAttack(model, eps=eps, norm="Linf", version="standard", seed=0)
    attack.verbose = False
    z, *_ = attack.run_standard_evaluation(x, y)
    assert float((z - x).abs().max()) <= eps + 1e-6
    return model.model(z).argmax(1) == y


def peers(model: Counting, x: Tensor, y: Tensor, right: Tensor, eps: float) -> Tensor:
    """Who holds against torchattacks' members at the standard's steps, each on what the ones before left over."""
    peer = torchattacks()
    if peer is None:
        raise SystemExit("torchattacks is not installed")
    shared = {"norm": "Linf", "eps": eps}
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
            inside = (z - x[rows]).flatten(1).abs().amax(1) <= eps * (1 + 1e-5)
            robust[rows] = ~((model(z).argmax(1) != y[rows]) & inside)
    return robust


def report(lines: list[str]) -> None:
    """Medians and quartiles of the ratios; price and verdicts of the ensembles."""
    rows = [json.loads(line) for line in lines]
    print(next(row["environment"] for row in rows))
    for row in (row for row in rows if row["what"] == "pgd"):
        share, over = row["passes"] / row["due"], statistics.median(row["over_bare"])
        print(
            f"PGD-{row['steps']} eps {row['eps']}, n {row['n']}, {row['rounds']} rounds: {row['survive']:.3f} survive"
        )
        print(f"    {row['passes']} passes, {row['due']} are due ({share:.4f}); all staying: {over:.3f} of bare passes")
        for name in ("all stay", "torchattacks"):
            if name in row["ratios"]:
                low, middle, high = statistics.quantiles(row["ratios"][name], n=4)
                print(f"    {name:13} {middle:6.2f} times as long [{low:.2f}, {high:.2f}]")
    ensembles = [row for row in rows if row["what"] == "ensemble"]
    for row in ensembles:
        alike = [other for other in ensembles if (other["size"], other["n"]) == (row["size"], row["n"])]
        reference = alike[0]["verdicts"]
        agree = sum(a == b for a, b in zip(row["verdicts"], reference, strict=True)) / len(reference)
        print(f"ensemble {row['size']} {row['contender']:13} n {row['n']} clean {row['clean']:.3f} robust "
              f"{row['verdicts'].count('1') / row['n']:.3f} {row['cpu_s']:7.1f} s, {row['forwards']} forwards, "
              f"{row['backwards']} backwards, price of these {row['price_s']:.1f} s: ratio "
              f"{row['cpu_s'] / row['price_s']:.3f}{whole(row)}, verdicts like the first {agree:.4f}")  # fmt: skip


def whole(row: dict[str, Any]) -> str:
    """With the translation that the engine needs once; rows from before it was timed have none."""
    seconds = row.get("translation_s", 0.0)
    ratio = (row["cpu_s"] + seconds) / row["price_s"]
    return f", {ratio:.3f} with {seconds:.1f} s of translation" if row["contender"] == "ort" and seconds else ""


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    what, *rest = sys.argv[1:]
    if what == "report":
        report(sys.stdin.read().splitlines())
        return
    if what == "pgd":
        row = survivors_only(float(rest[0]), int(rest[1]), int(rest[2]) if len(rest) > 2 else 7)
    else:
        row = ensemble(rest[0], int(rest[1]) if len(rest) > 1 else 64, rest[2] if len(rest) > 2 else "small")
    row["environment"] = {key: value for key, value in environment().items() if key != "time"}
    print(json.dumps(row))


if __name__ == "__main__":
    main()
