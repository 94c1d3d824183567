"""Price of the objective: its step against a hand-written step that does the same passes, interleaved, one thread.

python benchmarks/objective_overhead/measure.py [rounds] > benchmarks/objective_overhead/log.txt
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from holdfast.attacks.fgsm import FGSM
from holdfast.core.contracts import Metric, Task
from holdfast.core.fingerprint import environment
from holdfast.core.space import InputSpace, Leaf
from holdfast.methods.adversarial import Adversarial
from holdfast.train.objective import Objective
from holdfast.weights.ema import EMA

Batch = tuple[Tensor, Tensor]
Step = Callable[[Batch], None]
EPS = 1 / 255


def build_net() -> nn.Module:
    """1.9 MMAC an image at 28x28: small enough that bookkeeping would show."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(4),
        nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip


def cross_entropy(outputs: Tensor, batch: Batch) -> Tensor:
    return nn.functional.cross_entropy(outputs, batch[1], reduction="none")


TASK = Task(
    name="overhead",
    build_model=build_net,
    data=lambda split: [],
    loss=cross_entropy,
    metrics=(Metric(name="loss", compute=cross_entropy, unit="nat"),),
    space=InputSpace({"0": Leaf()}),
)


def start() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = build_net()
    return model, torch.optim.SGD(model.parameters(), lr=0.01)


def finish(optimiser: torch.optim.Optimizer) -> None:
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def plain_by_hand() -> Step:
    model, optimiser = start()

    def step(batch: Batch) -> None:
        nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
        finish(optimiser)

    return step


def fgsm_by_hand() -> Step:
    model, optimiser = start()

    def step(batch: Batch) -> None:
        x, y = batch
        model.eval()
        for p in model.parameters():
            p.requires_grad_(False)
        probe = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(probe), y, reduction="sum"), probe)
        for p in model.parameters():
            p.requires_grad_(True)
        model.train()
        attacked = (x + EPS * gradient.sign()).clamp(0, 1)
        loss = nn.functional.cross_entropy(model(x), y) + nn.functional.cross_entropy(model(attacked), y)
        (0.5 * loss).backward()
        finish(optimiser)

    return step


def ema_by_hand() -> Step:
    model, optimiser = start()
    shadow = [p.detach().clone() for p in model.state_dict().values() if p.is_floating_point()]

    def step(batch: Batch) -> None:
        nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
        finish(optimiser)
        with torch.no_grad():
            torch._foreach_lerp_(shadow, [p for p in model.state_dict().values() if p.is_floating_point()], 0.001)

    return step


def by_objective(methods: tuple[Adversarial, ...] = (), ema: bool = False) -> Step:
    model, optimiser = start()
    objective = Objective(TASK, methods)
    average = EMA(decay=0.999).start(model) if ema else None

    def step(batch: Batch) -> None:
        objective.backward(model, batch)
        finish(optimiser)
        if average is not None:
            average.update(model)

    return step


def cpu_seconds(step: Step, batches: list[Batch]) -> float:
    began = time.process_time()
    for batch in batches:
        step(batch)
    return (time.process_time() - began) / len(batches)


def main() -> None:
    torch.set_num_threads(1)
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    g = torch.Generator().manual_seed(0)
    batches = [(torch.rand(128, 1, 28, 28, generator=g), torch.randint(0, 10, (128,), generator=g)) for _ in range(8)]
    pairs: dict[str, tuple[Step, Step]] = {
        "plain": (plain_by_hand(), by_objective()),
        "fgsm": (fgsm_by_hand(), by_objective((Adversarial(attack=FGSM(eps=1.0), clean_weight=0.5),))),
        "ema": (ema_by_hand(), by_objective(ema=True)),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in pairs}
    for round_ in range(rounds + 1):
        for name, (hand, objective) in pairs.items():
            order = (hand, objective) if round_ % 2 else (objective, hand)
            seconds = {id(step): cpu_seconds(step, batches) for step in order}
            if round_:  # the first round warms up
                times[name].append((seconds[id(hand)], seconds[id(objective)]))
    print({key: value for key, value in environment().items() if key != "time"})
    print(f"batch 128, one thread, CPU time, {rounds} interleaved rounds of {len(batches)} steps")
    print(f"{'step':8} {'by hand ms':>11} {'objective ms':>13} {'ratio':>7} {'quartiles':>15}")
    for name, found in times.items():
        ratios = [objective / hand for hand, objective in found]
        low, middle, high = statistics.quantiles(ratios, n=4)
        hand_ms, objective_ms = (1e3 * statistics.median(column) for column in zip(*found, strict=True))
        print(f"{name:8} {hand_ms:11.2f} {objective_ms:13.2f} {middle:7.3f} {low:7.3f} {high:7.3f}")


if __name__ == "__main__":
    main()
