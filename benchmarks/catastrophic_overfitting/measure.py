"""One-step adversarial training with a step that is too long: does the guard see it fail, when, and what is left?

python benchmarks/catastrophic_overfitting/measure.py > benchmarks/catastrophic_overfitting/log.txt

MNIST, a small net, FGSM-RS at eps 0.2 (of the full range), Adam at a high rate. Four arms: a short step of 0.75
budgets, the recommended one of 1.25 and a long one of 2.5 under the guard, and the long one without it. After every
epoch FGSM and a PGD of 30 steps on 300 test digits, which the guard never sees, say how robust the net is; a collapse
is a PGD accuracy 20 points below its best. The guard attacks 256 digits that are not trained on with its own PGD-10.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from holdfast.attacks.fgsm import FGSM
from holdfast.attacks.fgsm_rs import FGSMRS
from holdfast.attacks.pgd import PGD
from holdfast.attacks.seal import perturb
from holdfast.core.contracts import Attack, Task
from holdfast.core.fingerprint import environment
from holdfast.core.space import InputSpace, Leaf
from holdfast.data.sources import data_root, read_idx
from holdfast.methods.adversarial import Adversarial
from holdfast.models.small_cnn import SmallCNN
from holdfast.select.stats import t_interval
from holdfast.tasks.classification import classification
from holdfast.train.guard import Guard
from holdfast.train.objective import Objective

SEEDS, EPOCHS, BATCH, TRAINED, EPS, RATE = range(3), 8, 64, 4800, 0.2, 8e-3
SHORT, RECOMMENDED, LONG = 0.75, 1.25, 2.5
COLLAPSE = 0.2


@dataclass
class Digits:
    image: Tensor
    label: Tensor

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        return {"image": self.image[indices], "label": self.label[indices]}


def digits(file: str, first: int, end: int) -> Digits:
    image = torch.from_numpy(read_idx(data_root("mnist", f"{file}-images-idx3-ubyte.gz"))[first:end].copy())
    label = torch.from_numpy(read_idx(data_root("mnist", f"{file}-labels-idx1-ubyte.gz"))[first:end].copy())
    return Digits(image[:, None].float() / 255, label.long())


def task() -> Task:
    return classification(
        name="digits", build_model=lambda: SmallCNN(norm=False), data=lambda split: None,
        space=InputSpace({"image": Leaf(unit=1.0)}),
    )  # fmt: skip


def robust(task: Task, model: nn.Module, data: Digits, attack: Attack) -> float:
    """Share of digits that the attack does not turn."""
    batch = data.batch(torch.arange(len(data.label)))
    moved = perturb(attack, lambda z: task.loss(model(z), batch), batch["image"], Leaf(unit=1.0),
                    torch.Generator().manual_seed(7), model)  # fmt: skip
    model.eval()
    with torch.no_grad():
        share = float((model(moved).argmax(1) == batch["label"]).float().mean())
    model.train()
    return share


def train(
    seed: int, step: float, guarded: bool, data: dict[str, Digits]
) -> tuple[list[tuple[float, float]], list[str], str]:
    """Accuracy under PGD-30 and FGSM after each epoch and at the end, what the guard said, the attack at the end."""
    problem = task()
    torch.manual_seed(seed)
    model = problem.build_model().train()
    objective = Objective(problem, [Adversarial(attack=FGSMRS(eps=EPS, step=step), clean_weight=0.0)], seed=seed)
    total = EPOCHS * TRAINED // BATCH
    optimiser = torch.optim.Adam(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=total)
    held_out = data["held_out"].batch(torch.arange(256))
    guard = Guard().start(problem, held_out, objective, model, optimiser) if guarded else None
    order, curve = torch.Generator().manual_seed(seed), []
    judges = (PGD(eps=EPS, steps=30), FGSM(eps=EPS))
    for _ in range(EPOCHS):
        for indices in torch.randperm(TRAINED, generator=order).split(BATCH):
            objective.backward(model, data["train"].batch(indices))
            optimiser.step()
            optimiser.zero_grad()
            schedule.step()
        curve.append(tuple(robust(problem, model, data["test"], judge) for judge in judges))  # before the guard acts
        if guard is not None:
            guard.check()
    final = tuple(robust(problem, model, data["test"], judge) for judge in judges)
    return [*curve, final], guard.events if guard else [], str(objective.methods[0].attack)  # type: ignore[attr-defined]  # Adversarial


def main() -> None:
    torch.set_num_threads(1)
    seeds = range(int(sys.argv[1])) if len(sys.argv) > 1 else SEEDS
    data = {
        "train": digits("train", 0, TRAINED),
        "held_out": digits("train", 57000, 57256),
        "test": digits("t10k", 0, 300),
    }
    print({key: value for key, value in environment().items() if key != "time"})
    print(f"{TRAINED} digits, {EPOCHS} epochs, batch {BATCH}, rate {RATE}, FGSM-RS eps {EPS}; PGD-30/FGSM accuracy, %")
    finals: dict[str, list[tuple[float, float]]] = {}
    for name, step, guarded in (("short, guarded", SHORT, True), ("long", LONG, False), ("long, guarded", LONG, True),
                                ("recommended, guarded", RECOMMENDED, True)):  # fmt: skip
        for seed in seeds:
            curve, events, attack = train(seed, step, guarded, data)
            finals.setdefault(name, []).append(curve[-1])
            pgd = [many for many, _ in curve[:-1]]
            collapsed = next((i + 1 for i in range(1, EPOCHS) if pgd[i] < max(pgd[: i + 1]) - COLLAPSE), None)
            epochs = " ".join(f"{100 * many:.0f}/{100 * one:.0f}" for many, one in curve)
            print(f"{name:21} seed {seed}: {epochs} (end) | collapse seen in epoch {collapsed}")
            for event in events:
                print(f"    guard, {event}")
            print(f"    attack at the end: {attack}", flush=True)
    for name, values in finals.items():
        pgd, fgsm = (t_interval([100 * pair[i] for pair in values]) for i in (0, 1))
        print(f"{name:21} at the end PGD-30 {pgd.estimate:.1f} [{pgd.low:.1f}, {pgd.high:.1f}], "
              f"FGSM {fgsm.estimate:.1f} [{fgsm.low:.1f}, {fgsm.high:.1f}], n {len(values)}")  # fmt: skip


if __name__ == "__main__":
    main()
