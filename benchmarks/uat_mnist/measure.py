"""Does unlabelled data make a net robust? Unsupervised adversarial training with 200 labels, on MNIST.

python benchmarks/uat_mnist/measure.py SEED > log, one seed at a time; then
python benchmarks/uat_mnist/measure.py summary LOG...

200 labelled digits, 8000 unlabelled ones. Every arm sees 40 labelled digits a step and, but for `supervised`, 80 of
the others, for 400 steps, of which the first 100 raise the attack to its full size: without that, nets that see
attacked digits alone stayed at chance in five of twelve trainings. The teacher is the same net trained on the 200
labels without attacks. `oracle` knows all 8200 labels. Robust: PGD of 30 steps on the first 1000 test digits. Nothing
else was tuned on them: weights are the paper's.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.attacks.pgd import PGD
from holdfast.attacks.seal import perturb
from holdfast.core.contracts import Task
from holdfast.core.fingerprint import environment
from holdfast.core.space import InputSpace, Leaf
from holdfast.data.sources import data_root, read_idx
from holdfast.data.table import Table
from holdfast.methods.adversarial import Adversarial
from holdfast.methods.rst import RST
from holdfast.methods.trades import TRADES
from holdfast.methods.uat import UAT
from holdfast.models.small_cnn import SmallCNN
from holdfast.select.stats import paired_difference, t_interval
from holdfast.tasks.classification import classification
from holdfast.train.objective import Objective
from holdfast.train.stream import Shuffled
from holdfast.weights.files import save

LABELS, OTHERS, STEPS, LABELLED, UNLABELLED, EPS = 200, 8000, 400, 40, 80, 0.2
RAMP, LEVELS = 100, 10
"""Steps over which the attack grows, and in how many levels."""
ARMS = ("teacher", "supervised", "rst", "ot", "ft", "++", "oracle")


def digits(file: str, first: int, end: int) -> dict[str, Tensor]:
    image = torch.from_numpy(read_idx(data_root("mnist", f"{file}-images-idx3-ubyte.gz"))[first:end].copy())
    label = torch.from_numpy(read_idx(data_root("mnist", f"{file}-labels-idx1-ubyte.gz"))[first:end].copy())
    return {"image": image[:, None].float() / 255, "label": label.long()}


def part(columns: dict[str, Tensor], begin: int, end: int) -> dict[str, Tensor]:
    return {name: column[begin:end] for name, column in columns.items()}


def task() -> Task:
    return classification(
        name="digits", build_model=lambda: SmallCNN(norm=False), data=lambda split: None,
        space=InputSpace({"image": Leaf(unit=1.0)}),
    )  # fmt: skip


def methods(arm: str, teacher: str, share: float) -> list[Any]:
    """Of an arm, at a share of the full budget."""
    attack = PGD(eps=share * EPS, alpha=0.4 * share * EPS, steps=4)
    attacked = Adversarial(attack=attack, clean_weight=0.0)
    if arm == "teacher":
        return []
    if arm in ("supervised", "oracle"):
        return [attacked]
    if arm == "rst":
        return [TRADES(attack=attack), RST(attack=attack, teacher=teacher)]
    uat = UAT(variant=arm, attack=attack, teacher=teacher, weight=5.0, ramp_steps=100)  # type: ignore[arg-type]  # an arm
    return [uat] if arm == "ot" else [attacked, uat]


def train(arm: str, seed: int, labelled: dict[str, Tensor], others: dict[str, Tensor], teacher: str) -> nn.Module:
    problem = task()
    torch.manual_seed(seed)
    model = problem.build_model().train()
    stream = Shuffled(Table(others), UNLABELLED, seed=seed) if arm not in ("teacher", "supervised", "oracle") else None
    objectives = [
        Objective(problem, methods(arm, teacher, (level + 1) / LEVELS), unlabelled=stream, seed=seed)
        for level in range(LEVELS)
    ]
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=STEPS)
    known = {k: torch.cat([labelled[k], others[k]]) for k in labelled} if arm == "oracle" else labelled
    size = LABELLED + UNLABELLED if arm == "oracle" else LABELLED
    draws = Shuffled(Table(known), size, seed=1000 + seed)
    for step in range(STEPS):
        objective = objectives[min(step * LEVELS // RAMP, LEVELS - 1)]
        objective.index = step
        objective.backward(model, draws[step])
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
    return model.eval()


def accuracies(model: nn.Module, test: dict[str, Tensor]) -> dict[str, float]:
    problem, attack = task(), PGD(eps=EPS, steps=30)
    moved = perturb(attack, lambda z: problem.loss(model(z), test), test["image"], Leaf(unit=1.0),
                    torch.Generator().manual_seed(7), model)  # fmt: skip
    with torch.no_grad():
        clean, robust = ((model(x).argmax(1) == test["label"]).float().mean() for x in (test["image"], moved))
    return {"clean": 100 * float(clean), "robust": 100 * float(robust)}


def one_seed(seed: int) -> None:
    train_digits = digits("train", 0, 60000)
    order = torch.randperm(60000, generator=torch.Generator().manual_seed(seed))[: LABELS + OTHERS]
    chosen = {name: column[order] for name, column in train_digits.items()}
    labelled, others, test = part(chosen, 0, LABELS), part(chosen, LABELS, LABELS + OTHERS), digits("t10k", 0, 1000)
    print(json.dumps({"environment": {k: v for k, v in environment().items() if k != "time"}}))
    with tempfile.TemporaryDirectory() as folder:
        teacher = str(Path(folder) / "teacher.safetensors")
        for arm in ARMS:
            model = train(arm, seed, labelled, others, teacher)
            if arm == "teacher":
                save(Path(teacher), model.state_dict())
            print(json.dumps({"seed": seed, "arm": arm, **accuracies(model, test)}), flush=True)


def summary(logs: list[str]) -> None:
    found: dict[str, dict[int, dict[str, float]]] = {}
    for log in logs:
        for line in Path(log).read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if "arm" in row:
                found.setdefault(row["arm"], {})[row["seed"]] = row
    seeds = sorted(found["oracle"])
    print(f"seeds {seeds}\n\n| arm | clean % | robust % | share of the oracle's gain |\n|---|---|---|---|")
    base, best = ([found[arm][s]["robust"] for s in seeds] for arm in ("supervised", "oracle"))
    for arm, rows in found.items():
        clean, robust = ([rows[s][name] for s in seeds] for name in ("clean", "robust"))
        shares = [(r - b) / (o - b) for r, b, o in zip(robust, base, best, strict=True)]
        print(f"| {arm} | {written(clean)} | {written(robust)} | {written(shares, 2)} |")
    for left, right in (("ot", "supervised"), ("ft", "supervised"), ("++", "ft"), ("++", "ot"), ("oracle", "++")):
        gap = paired_difference(*([found[arm][s]["robust"] for s in seeds] for arm in (left, right))).interval
        print(f"{left} minus {right}: {gap.estimate:+.1f} [{gap.low:+.1f}, {gap.high:+.1f}] points robust, paired")


def written(values: list[float], digits: int = 1) -> str:
    found = t_interval(values)
    return f"{found.estimate:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


if __name__ == "__main__":
    torch.set_num_threads(1)
    summary(sys.argv[2:]) if sys.argv[1] == "summary" else one_seed(int(sys.argv[1]))
