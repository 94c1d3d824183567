"""One-step adversarial training with a step that is too long: does the guard see it fail, when, and what is left?

python benchmarks/catastrophic_overfitting/measure.py > benchmarks/catastrophic_overfitting/log.txt

MNIST, a small net, FGSM-RS at eps 0.3 (of the full range). Three arms: the recommended step of 1.25 budgets and a long
one under the guard, and the long one without it. After every epoch a PGD of 30 steps on 500 test digits, which the
guard never sees, says how robust the net is. The guard attacks 256 digits that are not trained on with its own PGD-10.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from holdfast.attacks.fgsm_rs import FGSMRS
from holdfast.attacks.pgd import PGD
from holdfast.attacks.seal import perturb
from holdfast.core.contracts import Task
from holdfast.core.fingerprint import environment
from holdfast.core.space import InputSpace, Leaf
from holdfast.data.sources import data_root, read_idx
from holdfast.methods.adversarial import Adversarial
from holdfast.models.small_cnn import SmallCNN
from holdfast.select.stats import t_interval
from holdfast.tasks.classification import classification
from holdfast.train.guard import Guard
from holdfast.train.objective import Objective

SEEDS, EPOCHS, BATCH, TRAINED, EPS = range(3), 10, 128, 12800, 0.3
RECOMMENDED, LONG = 1.25, 2.5


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


def robust(task: Task, model: nn.Module, data: Digits) -> float:
    """Share of digits that PGD-30 does not turn."""
    batch = data.batch(torch.arange(len(data.label)))
    moved = perturb(PGD(eps=EPS, steps=30), lambda z: task.loss(model(z), batch), batch["image"], Leaf(unit=1.0),
                    torch.Generator().manual_seed(7), model)  # fmt: skip
    model.eval()
    with torch.no_grad():
        share = float((model(moved).argmax(1) == batch["label"]).float().mean())
    model.train()
    return share


def train(seed: int, step: float, guarded: bool, data: dict[str, Digits]) -> tuple[list[float], list[str], str]:
    """Robust accuracy after each epoch, what the guard said, and the attack at the end."""
    problem = task()
    torch.manual_seed(seed)
    model = problem.build_model().train()
    objective = Objective(problem, [Adversarial(attack=FGSMRS(eps=EPS, step=step), clean_weight=0.0)], seed=seed)
    total = EPOCHS * TRAINED // BATCH
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=total)
    held_out = data["held_out"].batch(torch.arange(256))
    guard = Guard().start(problem, held_out, objective, model, optimiser) if guarded else None
    order, curve = torch.Generator().manual_seed(seed), []
    for _ in range(EPOCHS):
        for indices in torch.randperm(TRAINED, generator=order).split(BATCH):
            objective.backward(model, data["train"].batch(indices))
            optimiser.step()
            optimiser.zero_grad()
            schedule.step()
        curve.append(robust(problem, model, data["test"]))  # before the guard may undo the epoch
        if guard is not None:
            guard.check()
    final = robust(problem, model, data["test"])
    return [*curve, final], guard.events if guard else [], str(objective.methods[0].attack)  # type: ignore[attr-defined]  # Adversarial


def main() -> None:
    torch.set_num_threads(1)
    seeds = range(int(sys.argv[1])) if len(sys.argv) > 1 else SEEDS
    data = {
        "train": digits("train", 0, TRAINED),
        "held_out": digits("train", 57000, 57256),
        "test": digits("t10k", 0, 500),
    }
    print({key: value for key, value in environment().items() if key != "time"})
    print(f"{TRAINED} digits, {EPOCHS} epochs, batch {BATCH}, FGSM-RS eps {EPS}; PGD-30 accuracy on 500 test digits")
    finals: dict[str, list[float]] = {}
    for name, step, guarded in (("recommended, guarded", RECOMMENDED, True), ("long", LONG, False),
                                ("long, guarded", LONG, True)):  # fmt: skip
        for seed in seeds:
            curve, events, attack = train(seed, step, guarded, data)
            finals.setdefault(name, []).append(curve[-1])
            best = [max(curve[: i + 1]) for i in range(EPOCHS)]
            collapsed = next((i + 1 for i in range(1, EPOCHS) if curve[i] < 0.5 * best[i]), None)
            epochs = " ".join(f"{100 * v:.0f}" for v in curve[:-1])
            print(f"{name:21} seed {seed}: {epochs} | end {100 * curve[-1]:.1f} | below half of its best: {collapsed}")
            for event in events:
                print(f"    guard, {event}")
            print(f"    attack at the end: {attack}", flush=True)
    for name, values in finals.items():
        found = t_interval([100 * v for v in values])
        print(f"{name:21} at the end {found.estimate:.1f} [{found.low:.1f}, {found.high:.1f}], n {len(values)}")


if __name__ == "__main__":
    main()
