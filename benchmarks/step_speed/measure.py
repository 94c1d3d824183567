"""Price of a method's step: against a step written out by hand that does the same passes, interleaved, one thread.

python benchmarks/step_speed/measure.py [rounds] [cnn|linear|METHOD ...] > benchmarks/step_speed/log.txt

Augmentations (augmix, trivial_augment, preprocess_jitter) are left out: by hand they would be the same functions.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

import peers
import torch
from by_hand import steps
from torch import Tensor, nn

from holdfast.attacks.fgsm import FGSM
from holdfast.attacks.pgd import PGD
from holdfast.core.contracts import Task
from holdfast.core.fingerprint import environment
from holdfast.core.space import InputSpace, Leaf
from holdfast.methods.adversarial import Adversarial
from holdfast.methods.awp import AWP
from holdfast.methods.cutmix import CutMix
from holdfast.methods.freeat import FreeAT
from holdfast.methods.freelb import FreeLB
from holdfast.methods.input_noise import InputNoise
from holdfast.methods.mixup import Mixup
from holdfast.methods.regmixup import RegMixup
from holdfast.methods.rotation import Rotation
from holdfast.methods.rst import RST
from holdfast.methods.sam import SAM
from holdfast.methods.trades import TRADES
from holdfast.methods.uat import UAT
from holdfast.methods.vat import VAT
from holdfast.methods.weight_noise import WeightNoise
from holdfast.methods.yopo import YOPO
from holdfast.tasks.predicted import kl_divergence
from holdfast.train.objective import Objective
from holdfast.weights.files import save

BATCH, BATCHES = 128, 4
LINEAR_ROUNDS = 3
"""Rounds of the linear model for one of the other: its steps are short."""
ATTACK = PGD(eps=8.0, alpha=4.0, steps=5)
Batch = tuple[Tensor, Tensor]
Run = Callable[[Batch, Batch], None]


class Net(nn.Module):
    """A first layer, the rest, and a rotation head; two convolutions, or a linear layer between two small ones."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        if kind == "cnn":
            self.first: nn.Module = nn.Conv2d(1, 16, 3, stride=2, padding=1)
            self.body = nn.Sequential(
                nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(1568, 100),
                nn.ReLU(),
            )  # fmt: skip
            self.last = nn.Linear(100, 10)
        else:
            self.first, self.body, self.last = nn.Flatten(), nn.Identity(), nn.Linear(784, 10)
        self.rotation = nn.Linear(self.last.in_features, 4)

    def penultimate(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.body(self.first(x))
        return hidden

    def rest(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.last(self.body(hidden))
        return logits

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.first(x))


def task_of(kind: str) -> Task:
    def loss(outputs: Tensor, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(outputs, batch[1], reduction="none")

    return Task(
        name=kind, build_model=lambda: built(kind), data=lambda split: [], loss=loss, metrics=(),
        space=InputSpace({"0": Leaf()}), divergence=lambda a, b, _: kl_divergence(a, b),
        labels=lambda batch: batch[1], pseudo_label=lambda outputs, batch: (batch[0], outputs.argmax(1)),
    )  # fmt: skip


def built(kind: str, *, head: bool = False) -> Net:
    """The same weights each time; without the head that only rotation trains."""
    torch.manual_seed(0)
    net = Net(kind)
    if not head:
        del net.rotation
    return net


def methods(teacher: Path) -> dict[str, dict[str, Any]]:
    """What an objective is given, by name."""
    return {
        "plain": {"methods": ()},
        "fgsm": {"methods": (Adversarial(attack=FGSM(eps=8.0)),)},
        "pgd": {"methods": (Adversarial(attack=ATTACK, clean_weight=0.0),)},
        "trades": {"methods": (TRADES(attack=ATTACK),)},
        "vat": {"methods": (VAT(),)},
        "uat": {"methods": (UAT(variant="ot", attack=ATTACK),)},
        "rst": {"methods": (RST(attack=ATTACK, teacher=str(teacher)),)},
        "freeat": {"methods": (FreeAT(eps=8.0),)},
        "freelb": {"methods": (FreeLB(tap="first"),)},
        "yopo": {"methods": (YOPO(first="first", passes_through=3, steps=3),)},
        "mixup": {"methods": (Mixup(),)},
        "regmixup": {"methods": (RegMixup(),)},
        "cutmix": {"methods": (CutMix(),)},
        "rotation": {"methods": (Rotation(tap="last:input"),)},
        "input_noise": {"methods": (InputNoise(),)},
        "sam": {"perturbation": SAM()},
        "awp": {"perturbation": AWP()},
        "weight_noise": {"perturbation": WeightNoise()},
    }


def by_hand(step: Any, kind: str, *, head: bool) -> Run:
    model = built(kind, head=head)
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-4)

    def run(batch: Batch, unlabelled: Batch) -> None:
        step(model, *batch, unlabelled[0])
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return run


def by_objective(given: dict[str, Any], kind: str, batches: list[Batch]) -> Run:
    objective = Objective(task_of(kind), **given, unlabelled=batches[::-1])
    model = objective.prepare(built(kind), batches[0])
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-4)

    def run(batch: Batch, unlabelled: Batch) -> None:
        objective.backward(model, batch)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return run


def cpu_seconds(run: Run, batches: list[Batch]) -> float:
    began = time.process_time()
    for batch, unlabelled in zip(batches, batches[::-1], strict=True):
        run(batch, unlabelled)
    return (time.process_time() - began) / len(batches)


def contenders(name: str, given: dict[str, Any], kind: str, batches: list[Batch], hand: Any) -> dict[str, Run]:
    """By hand first, which all are compared with."""
    return {
        "by hand": by_hand(hand, kind, head=name == "rotation"),
        "holdfast": by_objective(given, kind, batches),
        **{peer: by_hand(step, kind, head=False) for peer, step in peers.steps(name, classes=10).items()},
    }


def measure(kind: str, chosen: Container[str], rounds: int, teacher: Path) -> None:
    g = torch.Generator().manual_seed(0)
    batches = [(torch.rand(BATCH, 1, 28, 28, generator=g), torch.randint(0, 10, (BATCH,), generator=g))
               for _ in range(BATCHES)]  # fmt: skip
    save(teacher, built(kind).state_dict())
    hands = steps(built(kind).eval())
    for name, given in methods(teacher).items():
        if name not in chosen or (kind == "linear" and name == "yopo"):
            continue  # YOPO needs a first layer with weights, and more behind it
        runs = contenders(name, given, kind, batches, hands[name])
        names, times = list(runs), {contender: [] for contender in runs}
        for round_ in range(rounds + 1):
            for contender in names[round_ % len(names) :] + names[: round_ % len(names)]:
                seconds = cpu_seconds(runs[contender], batches)
                if round_:  # the first round warms up
                    times[contender].append(seconds)
        for contender, found in times.items():
            low, middle, high = statistics.quantiles(
                [t / hand for t, hand in zip(found, times["by hand"], strict=True)], n=4
            )
            print(f"{kind:7} {name:13} {contender:18} {1e3 * statistics.median(found):9.3f} "
                  f"{middle:7.3f} {low:7.3f} {high:7.3f}", flush=True)  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 11
    everything = {"cnn", "linear", *methods(Path())}
    if unknown := set(sys.argv[2:]) - everything:
        raise SystemExit(f"unknown {sorted(unknown)}; one of {sorted(everything)}")
    kinds = [kind for kind in ("cnn", "linear") if kind in sys.argv[2:]] or ["cnn", "linear"]
    chosen = set(sys.argv[2:]) - {"cnn", "linear"} or everything
    print({key: value for key, value in environment().items() if key != "time"})
    for peer in peers.PACKAGES:
        print(peer, peers.installed(peer))
    print(f"batch {BATCH} of 1x28x28, one thread, CPU time; {rounds} rounds ({LINEAR_ROUNDS * rounds} on linear), "
          f"interleaved, {BATCHES} steps each; ratio to by hand: median and quartiles over rounds")  # fmt: skip
    print(f"{'model':7} {'method':13} {'contender':18} {'ms':>9} {'ratio':>7} {'quartiles':>15}")
    with tempfile.TemporaryDirectory() as folder:
        for kind in kinds:
            turns = rounds if kind == "cnn" else LINEAR_ROUNDS * rounds
            measure(kind, chosen, turns, Path(folder) / f"{kind}.safetensors")


if __name__ == "__main__":
    main()
