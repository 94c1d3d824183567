"""What every probe promises, asked of all that are found: rows that say what they are, and a model left as it was."""

from __future__ import annotations

import copy
import dataclasses
import random
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from holdfast.core.contracts import Drift, Measurement, Metric, Probe, Task
from holdfast.core.discover import build, load, names
from holdfast.core.errors import InputError
from holdfast.core.flags import MEANING
from holdfast.core.space import InputSpace, Leaf
from holdfast.data.preprocess import Pipeline, Scale
from holdfast.data.samples import Samples
from holdfast.data.table import Table, sensor_batch
from holdfast.probes.bench import Bench, RunLabel
from holdfast.tasks.classification import classification

PROBES = names("probe")
SMALL = {
    "samples": 6, "steps": 2, "queries": 4, "restarts": 1, "draws": 2, "directions": 2, "iterations": 2,
    "kernel_samples": 8, "recalibration": 8, "severities": (1,), "eps": (1.0,),
}  # fmt: skip
"""Options that make a probe cheap, given to every probe that has an option of the name."""
SIZES = {"train": 16, "val": 9, "select": 9, "report": 10, "calibration": 8, "ood": 8, "select_sequence": 12,
         "report_sequence": 12}  # fmt: skip
TASKS = ("classification", "regression")


class Net(nn.Module):
    """Convolution, BatchNorm, an activation in place, a skip, dropout, linear."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(64, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.block(x)
        return self.head(self.drop(torch.relu_(x).flatten(1)))


def data(split: str) -> Samples:
    if split not in SIZES:
        raise KeyError(split)
    g = torch.Generator().manual_seed(sorted(SIZES).index(split))
    n = SIZES[split]
    image = torch.randint(0, 256, (n, 3, 8, 8), generator=g, dtype=torch.uint8)
    label = torch.arange(n) % 3
    return Samples(
        image=image.numpy(), label=label.numpy(), y=(image[:, 0].float().mean((1, 2)) / 255).numpy(),
        recording=(torch.arange(n) // 6).numpy(),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Coarse:
    """Eight grey levels."""

    name: ClassVar[str] = "coarse"

    def __call__(self, image: Tensor) -> Tensor:
        return (image / 32).floor() * 32


def the_task(kind: str) -> Task:
    pipelines = {"train": Pipeline(steps=(Scale(),)), "coarse": Pipeline(steps=(Coarse(), Scale()))}
    if kind == "classification":
        return classification(
            name="tiny-classes", build_model=lambda: Net(3), data=data, pipelines=pipelines, group="recording"
        )
    return Task(
        name="tiny-values", build_model=lambda: Net(1), data=data,
        loss=lambda o, b: (o[:, 0] - b["y"]).square(),
        metrics=(
            Metric(name="error", compute=lambda o, b: (o[:, 0] - b["y"]).abs(), unit="1"),
            Metric(name="wobble", compute=lambda o, b: o[:, 0].diff().std(), unit="1", over="sequence"),
        ),
        drifts=(Drift(name="shift", compute=lambda r, o, b: (r - o)[:, 0].abs(), unit="1"),),
        space=InputSpace({"image": Leaf()}), pipelines=pipelines, group=lambda b: b["recording"].tolist(),
        failed=lambda o, b: (o[:, 0] - b["y"]).abs() > 0.1,
        traces=lambda o, b: {"value": o[:, 0], "truth": b["y"]},
    )  # fmt: skip


def the_bench(kind: str) -> Bench:
    task = the_task(kind)

    def open_table(split: str, pipeline: str) -> Table | None:
        try:
            found = data(split)
        except KeyError:
            return None
        return Table(task.pipelines[pipeline](sensor_batch(found, range(len(found)))))

    torch.manual_seed(0)
    model = task.build_model()
    initial = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        model(torch.rand(8, 3, 8, 8))
    for index, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, 0.5) if index % 2 else None
    model.head.bias.requires_grad_(False)
    bench = Bench(
        label=RunLabel(study="s", recipe="r", init_seed=0, order_seed=0, weights="last"), task=task,
        model=model.eval(), open_table=open_table, open_subjects=list, preprocessing=["train", "coarse"],
        initial=initial,
    )  # fmt: skip
    bench.open_subjects = lambda: [bench.eager]
    return bench


def probe_of(name: str) -> Probe:
    fields = {field.name for field in dataclasses.fields(load("probe", name)) if field.init}
    found: Probe = build("probe", {name: {key: value for key, value in SMALL.items() if key in fields}})
    return found


def bits(bench: Bench) -> dict[str, Any]:
    """Everything a probe has to leave alone."""
    model, state = bench.model, {}
    for name, module in model.named_modules():
        state[f"{name} mode"] = module.training
        state[f"{name} attributes"] = sorted(module.__dict__)
        state[f"{name} hooks"] = (
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            len(module._backward_hooks),
        )
    for name, tensor in model.state_dict(keep_vars=True).items():
        state[name] = (tensor.detach().clone(), tensor.requires_grad, id(tensor))
        state[f"{name} gradient"] = None if tensor.grad is None else tensor.grad.clone()
    state["torch"] = torch.get_rng_state()
    state["numpy"] = np.random.get_state()[1].copy()
    state["random"] = random.getstate()
    state["modes"] = (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads())
    state["data"] = [
        leaf.clone() for split in SIZES for name in bench.preprocessing
        for leaf in tree_leaves(bench.batch(split, name))
    ]  # fmt: skip
    return state


def differing(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    def same(a: Any, b: Any) -> bool:
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            return torch.equal(a, b)
        if isinstance(a, np.ndarray):
            return np.array_equal(a, b)
        if isinstance(a, list | tuple):
            return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
        return bool(a == b)

    return sorted(set(before) ^ set(after)) + [
        key for key in before if key in after and not same(before[key], after[key])
    ]


def asked(name: str, kind: str) -> tuple[list[Measurement], dict[str, Any], dict[str, Any], Bench]:
    bench = the_bench(kind)
    before, found = bits(bench), []
    own = {key: value.clone() for key, value in bench.model.state_dict().items()}
    try:
        for measurement in probe_of(name).run(bench):
            found.append(measurement)
            between = [key for key, value in bench.model.state_dict().items() if not torch.equal(value, own[key])]
            assert between == [], f"{name} gives a row while the model is changed"
    except InputError:  # refused: it may be for other tasks
        found = []
    return found, before, bits(bench), bench


@pytest.fixture(scope="module", params=PROBES)
def answers(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return request.param, {kind: asked(request.param, kind) for kind in TASKS}


def test_some_probes_are_found() -> None:
    assert {"clean", "deployment", "adversarial", "criticality", "datapath", "laziness", "flatness", "calibration",
            "stability"} <= set(PROBES)  # fmt: skip


def test_it_is_a_probe_that_says_what_it_needs(answers: Any) -> None:
    name, _ = answers
    probe = probe_of(name)
    assert isinstance(probe, Probe)
    assert probe.needs <= {"forward", "gradient", "weights", "intermediates", "initial"}


def test_it_answers_for_one_of_the_tasks(answers: Any) -> None:
    name, by_task = answers
    assert any(found for found, *_ in by_task.values()), f"{name} gave no row for {TASKS}"


def test_the_model_the_generators_and_the_data_are_the_same_bits(answers: Any) -> None:
    _, by_task = answers
    for _, before, after, _ in by_task.values():
        assert differing(before, after) == []


def test_rows_say_what_they_are(answers: Any) -> None:
    name, by_task = answers
    for found, *_ in by_task.values():
        for measurement in found:
            row = measurement.row
            assert row.probe == name
            assert row.metric
            assert row.unit
            assert set(row.flags) <= set(MEANING)
            assert len(measurement.values) == len(measurement.groups) >= row.n
            defined = measurement.values[~np.isnan(measurement.values)]
            assert row.n == len(defined)
            assert row.value == pytest.approx(defined.mean()) if len(defined) else np.isnan(row.value)


def test_no_two_rows_answer_the_same_question(answers: Any) -> None:
    _, by_task = answers
    for found, *_ in by_task.values():
        asked_for = [(m.row.subject, m.row.preprocessing, m.row.split, m.row.condition, m.row.metric) for m in found]
        assert len(set(asked_for)) == len(asked_for)


def test_asking_again_gives_the_same_rows(answers: Any) -> None:
    name, by_task = answers
    for kind, (found, *_) in by_task.items():
        again, *_ = asked(name, kind)
        assert [m.row for m in again] == [m.row for m in found] or any(np.isnan(m.row.value) for m in found)
        for first, second in zip(found, again, strict=True):
            np.testing.assert_array_equal(first.values, second.values)


def test_a_probe_that_meddles_would_be_found() -> None:
    bench = the_bench("classification")
    before = bits(bench)
    bench.model.stem[1].running_mean.add_(1)
    bench.model.drop.train()
    torch.rand(1)
    next(iter(bench.model.parameters())).grad = torch.zeros(4, 3, 3, 3)
    assert set(differing(before, bits(bench))) == {
        "stem.1.running_mean", "drop mode", "torch", "stem.0.weight gradient",
    }  # fmt: skip
