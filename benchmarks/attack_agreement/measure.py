"""Do holdfast's attacks break as many samples as torchattacks' and Foolbox's, at equal steps, on three models?

OMP_NUM_THREADS=1 python benchmarks/attack_agreement/measure.py MODEL >> benchmarks/attack_agreement/rows.jsonl
python benchmarks/attack_agreement/measure.py report < rows.jsonl > benchmarks/attack_agreement/log.txt

MODEL: `plain` (MNIST, fully connected), `pgd` (MNIST, convolutional, trained on PGD), `fgsm` (Fashion-MNIST,
convolutional, trained on FGSM). Three
seeds of initialisation, order and attack. Needs HOLDFAST_DATA.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from holdfast.attacks.aim import Aim
from holdfast.attacks.seal import perturb
from holdfast.core.contracts import Attack
from holdfast.core.discover import build
from holdfast.core.fingerprint import environment
from holdfast.core.space import Leaf
from holdfast.data.sources import data_root, read_idx
from holdfast.models.small_cnn import SmallCNN

SEEDS, SAMPLES, TRAINED, EPOCHS = range(3), 128, 9600, 1
MODELS = {
    "plain": {"data": "mnist", "attack": None, "eps": 0.03, "eps_l2": 0.6},
    "pgd": {"data": "mnist", "attack": {"pgd": {"eps": 0.2, "steps": 5, "alpha": 0.08}}, "eps": 0.2, "eps_l2": 2.0},
    "fgsm": {"data": "fashion_mnist", "attack": {"fgsm": {"eps": 0.05}}, "eps": 0.05, "eps_l2": 0.8},
}
UNIT = Leaf(unit=1.0)
STEPS, QUERIES = 20, 150


def images(data: str, part: str, first: int, end: int) -> tuple[Tensor, Tensor]:
    x = read_idx(data_root(data, f"{part}-images-idx3-ubyte.gz"))[first:end]
    y = read_idx(data_root(data, f"{part}-labels-idx1-ubyte.gz"))[first:end]
    return torch.from_numpy(x[:, None].astype(np.float32) / 255), torch.from_numpy(y.astype(np.int64))


def trained(name: str, seed: int) -> nn.Module:
    """A small model after one epoch, on half clean and half attacked images where its recipe has an attack."""
    torch.manual_seed(seed)
    model = (SmallCNN(norm=False) if name != "plain"
             else nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10)))  # fmt: skip
    x, y = images(MODELS[name]["data"], "train", 0, TRAINED)
    attack = build("attack", MODELS[name]["attack"]) if MODELS[name]["attack"] else None
    steps, size, draws = EPOCHS * TRAINED // 64, 64, torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    for step in range(steps):
        if step % (TRAINED // size) == 0:
            order = torch.randperm(TRAINED, generator=draws)
        rows = order[step * size % TRAINED :][:size]
        part, labels = x[rows], y[rows]
        loss = cross_entropy(model(part), labels)
        if attack is not None:
            error = lambda z, labels=labels: cross_entropy(model(z), labels, reduction="none")  # noqa: E731 - as a user writes it
            loss = 0.5 * loss + 0.5 * cross_entropy(model(perturb(attack, error, part, UNIT, draws, model)), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model.eval().requires_grad_(False)


# --- contenders -----------------------------------------------------------------------------------------


def ours(model: nn.Module, eps: float, eps_l2: float) -> dict[tuple[str, str], Callable[[Tensor, Tensor, int], Tensor]]:
    def run(attack: Attack) -> Callable[[Tensor, Tensor, int], Tensor]:
        def attacked(x: Tensor, y: Tensor, seed: int) -> Tensor:
            aim = Aim(forward=lambda z, _: model(z), batch=y, labels=y,
                      error=lambda logits, y: cross_entropy(logits, y, reduction="none"),
                      failed=lambda logits, y: logits.argmax(1) != y)  # fmt: skip
            return perturb(attack, aim, x, UNIT, torch.Generator().manual_seed(seed), model)

        return attacked

    members = {
        "PGD": {"pgd": {"steps": STEPS, "alpha": eps / 4}},
        "APGD-CE": {"apgd": {"steps": STEPS, "loss": "ce"}},
        "APGD-DLR": {"apgd": {"steps": STEPS, "loss": "dlr"}},
        "Square": {"square": {"queries": QUERIES}},
    }
    found = {}
    for norm, size in (("Linf", eps), ("L2", eps_l2)):
        for name, spec in members.items():
            attack = replace(build("attack", spec), eps=size, norm=norm.lower())
            found[name, norm] = run(replace(attack, alpha=size / 4) if name == "PGD" else attack)
    return found


def torchattacks_of(model: nn.Module, eps: float, eps_l2: float) -> dict[tuple[str, str], Callable[..., Tensor]]:
    torchattacks = peer("torchattacks")
    if torchattacks is None:
        return {}
    found = {}
    for norm, size in (("Linf", eps), ("L2", eps_l2)):
        shared = {"norm": norm, "eps": size}
        pgd = {"alpha": size / 4, "steps": STEPS, "eps": size}
        found |= {
            ("PGD", norm): torchattacks.PGD(model, **pgd) if norm == "Linf" else torchattacks.PGDL2(model, **pgd),
            ("APGD-CE", norm): torchattacks.APGD(model, **shared, steps=STEPS, loss="ce"),
            ("APGD-DLR", norm): torchattacks.APGD(model, **shared, steps=STEPS, loss="dlr"),
            ("Square", norm): torchattacks.Square(model, **shared, n_queries=QUERIES, resc_schedule=False),
        }
    return {key: lambda x, y, seed, attack=attack: _seeded(attack, seed)(x, y) for key, attack in found.items()}


def foolbox_of(model: nn.Module, eps: float, eps_l2: float) -> dict[tuple[str, str], Callable[..., Tensor]]:
    foolbox = peer("foolbox")
    if foolbox is None:
        return {}
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
    attacks = {
        "Linf": (foolbox.attacks.LinfPGD(steps=STEPS, abs_stepsize=eps / 4), eps),
        "L2": (foolbox.attacks.L2PGD(steps=STEPS, abs_stepsize=eps_l2 / 4), eps_l2),
    }

    def run(attack: object, size: float) -> Callable[..., Tensor]:
        def attacked(x: Tensor, y: Tensor, seed: int) -> Tensor:
            torch.manual_seed(seed)
            return attack(wrapped, x, y, epsilons=[size])[1][0]

        return attacked

    return {("PGD", norm): run(*pair) for norm, pair in attacks.items()}


def peer(name: str) -> ModuleType | None:
    """A peer if it is installed. Its torchvision need not load beside a CPU build of torch: it is not used here."""
    for stub in ("torchvision", "torchvision.models", "torchvision.transforms", "torchvision.datasets"):
        sys.modules.setdefault(stub, ModuleType(stub))
    try:
        return __import__(name)
    except ImportError as error:
        print(f"{name} is left out: {error}", file=sys.stderr)
        return None


def _seeded(attack: Callable[..., Tensor], seed: int) -> Callable[..., Tensor]:
    if hasattr(attack, "seed"):
        attack.seed = seed
    torch.manual_seed(seed)
    return attack


# --- rows -----------------------------------------------------------------------------------------------


def rows(name: str, seed: int) -> Iterator[dict[str, object]]:
    options = MODELS[name]
    budgets = {"Linf": options["eps"], "L2": options["eps_l2"]}
    x, y = images(options["data"], "t10k", 0, SAMPLES)
    model = trained(name, seed)
    right = model(x).argmax(1) == y
    shared = {"model": name, "seed": seed, "n": SAMPLES, "clean": float(right.float().mean())}
    tools = {"holdfast": ours, "torchattacks": torchattacks_of, "foolbox": foolbox_of}
    for tool, make in tools.items():
        for (attack, norm), run in make(model, options["eps"], options["eps_l2"]).items():
            began = time.process_time()
            adversarial = x.clone()
            adversarial[right] = run(x[right], y[right], seed).detach()
            cpu = time.process_time() - began
            delta = (adversarial - x).flatten(1)
            size = float((delta.abs().amax(1) if norm == "Linf" else delta.norm(dim=1)).max())
            # A point outside the budget, as FAB may return it, does not count.
            inside = (delta.abs().amax(1) if norm == "Linf" else delta.norm(dim=1)) <= budgets[norm] * (1 + 1e-4)
            robust = right & ~((model(adversarial).argmax(1) != y) & inside)
            yield {**shared, "tool": tool, "attack": attack, "norm": norm, "eps": budgets[norm],
                   "robust": robust.float().mean().item(), "verdicts": "".join("01"[int(r)] for r in robust),
                   "largest": size / budgets[norm], "cpu_s": round(cpu, 3)}  # fmt: skip


def report(lines: list[str]) -> None:
    """By model, attack and norm: mean robust accuracy over the seeds, its paired difference, and agreeing verdicts."""
    found: dict[tuple[str, str, str], dict[tuple[str, int], dict[str, object]]] = defaultdict(dict)
    clean: dict[str, list[float]] = defaultdict(list)
    environments: dict[str, None] = {}
    for line in lines:
        row = json.loads(line)
        if "attack" not in row:
            environments[json.dumps(row)] = None
            continue
        found[row["model"], row["norm"], row["attack"]][row["tool"], row["seed"]] = row
        if (row["tool"], row["attack"], row["norm"]) == ("holdfast", "PGD", "Linf"):
            clean[row["model"]].append(row["clean"])
    print(*environments, sep="\n")
    print({model: f"clean accuracy {np.mean(values):.3f}" for model, values in clean.items()})
    print(f"{'model':6} {'norm':5} {'attack':9} {'peer':13} {'ours':>6} {'theirs':>7} {'difference, 95 %':>24} "
          f"{'verdicts that agree':>20} {'seeds':>5}")  # fmt: skip
    for (model, norm, attack), by in found.items():
        for tool in ("torchattacks", "foolbox"):
            seeds = [seed for seed in SEEDS if (tool, seed) in by and ("holdfast", seed) in by]
            if not seeds:
                continue
            pairs = [(by["holdfast", seed], by[tool, seed]) for seed in seeds]
            a, b = (np.array([pair[i]["robust"] for pair in pairs]) for i in (0, 1))
            agree = np.mean(
                [np.mean([p == q for p, q in zip(x["verdicts"], y["verdicts"], strict=True)]) for x, y in pairs]
            )
            half = 4.303 * (a - b).std(ddof=1) / len(a) ** 0.5 if len(a) == 3 else float("nan")
            print(f"{model:6} {norm:5} {attack:9} {tool:13} {a.mean():6.3f} {b.mean():7.3f} "
                  f"{(a - b).mean():+8.4f} [{(a - b).mean() - half:+.4f}, {(a - b).mean() + half:+.4f}] {agree:14.4f} "
                  f"{len(seeds):5}")  # fmt: skip


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if sys.argv[1] == "report":
        report(sys.stdin.read().splitlines())
        return
    print(json.dumps({key: value for key, value in environment().items() if key != "time"}), flush=True)
    for seed in SEEDS:
        for row in rows(sys.argv[1], seed):
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
