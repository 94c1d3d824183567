"""Which method works on which task, found by trying; prints the page `docs/methods/README.md`.

python tests/reference/methods_on_tasks.py > docs/methods/README.md
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from found_methods import ALL, METHODS, options_of
from torch import Tensor, nn
from toy_tasks import driving, model_of, regression_with_two_inputs, step_of

from holdfast.core.contracts import Task
from holdfast.core.discover import build, load, names
from holdfast.core.errors import HoldfastError
from holdfast.core.space import InputSpace, Leaf
from holdfast.data.samples import Samples
from holdfast.data.table import sensor_batch
from holdfast.methods.augmentation import allowed_ops
from holdfast.methods.image_ops import GEOMETRIC
from holdfast.models.small_cnn import SmallCNN
from holdfast.models.unet import UNet
from holdfast.tasks.predicted import kl_divergence, mean_probability
from holdfast.train.objective import Objective
from holdfast.weights.files import save

N, SIDE = 4, 12
FOLDER = tempfile.TemporaryDirectory()
OPTIONAL = ("divergence", "pseudo_label", "target_mix", "mixture")
"""What a task may declare and training methods may ask for."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A task with two batches of model inputs."""

    task: Task
    batch: Any
    other: Any


# --- the tasks ------------------------------------------------------------------------------------------


def _gray() -> Tensor:
    return torch.randint(0, 256, (2 * N, 1, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


_NET = partial(SmallCNN, size=(SIDE, SIDE), widths=(4, 8), hidden=8)
MADE: Mapping[str, Callable[[], dict[str, Any]]] = {
    "classification": lambda: {
        "build_model": partial(_NET, outputs=3), "data": lambda _: Samples(image=_gray(), label=torch.arange(2 * N) % 3)
    },
    "regression": lambda: {
        "build_model": partial(_NET, outputs=1), "data": lambda _: Samples(image=_gray(), target=torch.rand(2 * N))
    },
    "segmentation": lambda: {
        "build_model": partial(UNet, inputs=1, widths=(4, 8)),
        "data": lambda _: Samples(image=_gray(), mask=(_gray() > 127).float()),
    },
    "lanes": lambda: {"frames": 2 * N, "test_frames": 1, "sequences": 1, "sequence_frames": 2},
    "detection": lambda: {"scenes": 2 * N, "test_scenes": 1},
    "text": lambda: {"samples": 2 * N, "test_samples": 1, "dropout": 0.0},
}  # fmt: skip
"""Options with which a task of ``tasks/`` becomes tiny; one that is not named here is built without options."""


def _shipped(name: str) -> Case:
    task = load("task", name)(**MADE.get(name, dict)())
    data, prepare = task.data("train"), task.pipelines["train"]
    first, second = (prepare(sensor_batch(data, range(a, a + N))) for a in (0, N))
    return Case(task=task, batch=first, other=second)


class _Pair(nn.Module):
    """Two outputs in a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.steer, self.sure = nn.Conv2d(3, 4, 3, stride=2), nn.Linear(36, 1), nn.Linear(36, 3)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = self.body(image).relu().flatten(1)
        return self.steer(x), self.sure(x)


def _tuples() -> Case:
    """Batches are pairs, outputs are pairs, and targets are floats and classes."""

    def loss(outputs: Any, batch: Any) -> Tensor:
        steer, kind = batch[1]
        return (outputs[0][:, 0] - steer).square() + nn.functional.cross_entropy(outputs[1], kind, reduction="none")

    def divergence(reference: Any, other: Any, batch: Any) -> Tensor:
        return (reference[0] - other[0])[:, 0].square() + kl_divergence(reference[1], other[1])

    def batch(seed: int) -> Any:
        g = torch.Generator().manual_seed(seed)
        targets = (torch.randn(N, generator=g), torch.randint(0, 3, (N,), generator=g))
        return torch.rand(N, 3, 8, 8, generator=g), targets

    task = Task(
        name="pairs", build_model=_Pair, data=lambda _: [], loss=loss, metrics=(), space=InputSpace({"0": Leaf()}),
        divergence=divergence, pseudo_label=lambda outputs, b: (b[0], (outputs[0][:, 0], outputs[1].argmax(1))),
        mixture=lambda several: (
            torch.stack([o[0] for o in several]).mean(0), mean_probability([o[1] for o in several])
        ),
    )  # fmt: skip
    return Case(task=task, batch=batch(0), other=batch(1))


def _two_inputs() -> Case:
    """Batches are dicts of an image and a speed, both perturbable; outputs are dicts."""
    task = replace(
        regression_with_two_inputs(), divergence=lambda a, b, _: (a["steer"] - b["steer"]).square().sum(1),
        pseudo_label=lambda outputs, batch: {**batch, "steer": outputs["steer"]},
    )  # fmt: skip
    return Case(task=task, batch=driving(N), other=driving(N, seed=1))


STRUCTURES = {"tuples": _tuples, "two inputs": _two_inputs}
COLUMNS = (*names("task"), *STRUCTURES)


@cache
def case_of(column: str) -> Case:
    torch.manual_seed(0)
    return STRUCTURES[column]() if column in STRUCTURES else _shipped(column)


# --- trying ---------------------------------------------------------------------------------------------


def objective_of(name: str, task: Task, case: Case, **options: Any) -> Objective:
    piece = build("method", {name: options})
    kind: dict[str, Any] = {"methods": [piece]} if name in METHODS else {"perturbation": piece}
    return Objective(task, **kind, unlabelled=[case.other])


def gradients(objective: Objective, case: Case) -> dict[str, Tensor]:
    """Of the trained model, by name, after one step of an objective."""
    model = objective.prepare(model_of(case.task), case.batch)
    loss = objective(model, case.batch)
    loss.backward()
    found = {k.removeprefix("model."): p.grad for k, p in model.named_parameters() if p.grad is not None}
    assert loss.isfinite()
    assert all(g.isfinite().all() for g in found.values())
    return found


@cache
def plain_gradients(column: str) -> dict[str, Tensor]:
    case = case_of(column)
    return gradients(Objective(case.task), case)


def options_for(name: str, column: str) -> dict[str, Any]:
    """A method's own test options, with layers, teachers and pipelines of this column's task."""
    case, options = case_of(column), dict(options_of(name))
    model = model_of(case.task)
    known: dict[str, Any] = {"tap" if name == "freelb" else "first": first_layer(model)}
    if name == "mixup":
        known["alpha"] = 1.0  # its default mixes most batches too little to be told from none
    if "teacher" in options:
        path = Path(FOLDER.name) / f"{column.replace(' ', '_')}.safetensors"
        save(path, model.state_dict())
        known["teacher"] = str(path)
    known["pipelines"] = ()  # batches of one pipeline alone
    return {**options, **{k: v for k, v in known.items() if k in option_names(name)}}


def first_layer(model: nn.Module) -> str:
    return next(n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.Embedding))


def option_names(name: str) -> set[str]:
    return {field.name for field in fields(load("method", name))}


def variations(name: str, column: str) -> dict[str, dict[str, Any]]:
    """Options to try one after the other, by what a user would have to write."""
    case = case_of(column)
    tries: dict[str, dict[str, Any]] = {"": {}}
    if len(case.task.space.leaves) > 1:
        tries["`leaf`"] = {"leaf": next(iter(case.task.space.leaves))}
    model = model_of(case.task)
    if name != "freelb":
        tries["`tap`"] = {"tap": first_layer(model)}
    tries["`pretext: flip`"] = {"pretext": "flip"}
    return {label: options for label, options in tries.items() if set(options) <= option_names(name)}


@cache
def tried(name: str, column: str) -> tuple[str, str]:
    """What a cell says, ``yes`` or what to write, or ``no`` with the reason."""
    case, reasons = case_of(column), []
    for label, options in variations(name, column).items():
        try:
            found = gradients(objective_of(name, case.task, case, **{**options_for(name, column), **options}), case)
        except HoldfastError as error:
            reasons.append(error.what)
            continue
        plain = plain_gradients(column)
        assert any(k not in plain or not torch.equal(found[k], plain[k]) for k in found), f"{name} does nothing"
        return label or how(name, case), ""
    return "no", reasons[0]


def how(name: str, case: Case) -> str:
    if name not in ("augmix", "trivial_augment"):
        return "yes"
    ops = allowed_ops(step_of(case.task, model_of(case.task), case.batch), enhancing=False)
    return "yes" if set(GEOMETRIC) & set(ops) else "photometric"


def needed(name: str) -> list[str]:
    """What a task has to declare beyond what every task must: found by declaring what the errors ask for."""
    case = case_of("classification")
    task, asked = replace(case.task, **dict.fromkeys(OPTIONAL)), []
    for _ in OPTIONAL:
        try:
            gradients(objective_of(name, task, case, **options_for(name, "classification")), case)
        except HoldfastError as error:
            [wanted] = re.findall(r"Task\((\w+)=", str(error))
            asked.append(wanted)
            task = replace(task, **{wanted: getattr(case.task, wanted)})
        else:
            return asked
    return asked


# --- the page -------------------------------------------------------------------------------------------

HEAD = """# Training methods, and the tasks they work on

One page for each method: what it does, its equation, what it costs, when it helps. This table is made by trying every
method that is found on a tiny batch of every task (`tests/reference/methods_on_tasks.py`); a test fails when it is out
of date.

*yes*: it trains as it stands. `leaf`, `tap`, `pretext: flip`: it trains when this option is given. *photometric*: where
targets are places in the image, operations that move pixels are left out. *no*: it is refused, for the reason of that
number below. *needs*: what a task of your own has to declare beyond the six fields that every task has; the shipped
tasks declare it.

*tuples*: batches and outputs are tuples, with a float and a class as targets. *two inputs*: batches are dicts with two
perturbable inputs, outputs are dicts, and targets are vectors.
"""


def page() -> str:
    reasons: list[str] = []
    rows = [["method", *COLUMNS, "needs"]]
    for name in ALL:
        cells = []
        for column in COLUMNS:
            said, reason = tried(name, column)
            if reason and reason not in reasons:
                reasons.append(reason)
            cells.append(f"no [{reasons.index(reason) + 1}]" if reason else said)
        rows.append([f"[`{name}`]({name}.md)", *cells, ", ".join(f"`{n}`" for n in needed(name))])
    rows.insert(1, ["---"] * len(rows[0]))
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{HEAD}\n{table}\n\n" + "\n".join(f"{i}. {reason}" for i, reason in enumerate(reasons, 1)) + "\n"


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(page(), end="")
