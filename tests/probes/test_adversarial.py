"""The adversarial probe and the bench it runs on, on the toy task of the studies."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from holdfast.core.contracts import Measurement, Task
from holdfast.core.errors import InputError
from holdfast.data.table import Table, sensor_batch
from holdfast.probes.adversarial import Adversarial
from holdfast.probes.bench import Bench, RunLabel
from holdfast.probes.clean import Clean

TOY = Path(__file__).parents[1] / "study" / "toy_task.py"


def toy() -> Task:
    spec = importlib.util.spec_from_file_location("toy_task_of_probes", TOY)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    task: Task = module.make()
    return task


@pytest.fixture
def bench() -> Bench:
    task = toy()

    def open_table(split: str, pipeline: str) -> Table | None:
        try:
            data = task.data(split)
        except KeyError:
            return None
        return Table(task.pipelines[pipeline](sensor_batch(data, range(len(data)))))

    torch.manual_seed(0)
    return Bench(
        label=RunLabel(study="s", recipe="r", init_seed=0, order_seed=0, weights="last"),
        task=task, model=task.build_model().eval(), open_table=open_table, open_subjects=list,
        preprocessing=["train", "coarse"],
    )  # fmt: skip


def by_condition(found: list[Measurement], metric: str) -> dict[str, float]:
    return {m.row.condition: m.row.value for m in found if m.row.metric == metric}


def test_a_larger_budget_does_more_harm_and_none_does_none(bench: Bench) -> None:
    probe = Adversarial(attacks=("fgsm", {"pgd": {"steps": 5}}), eps=(0.0, 1.0, 4.0), samples=24)
    errors = by_condition(list(probe.run(bench)), "error")
    clean = float(bench.values(bench.task.metrics[0], (bench.outputs(bench.eager, "report", "train"),),
                               bench.batch("report", "train"))[0].mean())  # fmt: skip
    for attack in ("fgsm", "pgd"):
        assert errors[f"{attack} eps=0"] == pytest.approx(clean, rel=1e-6)
        assert clean < errors[f"{attack} eps=1"] < errors[f"{attack} eps=4"]


def test_the_model_is_the_same_bits_afterwards(bench: Bench) -> None:
    before = {name: value.clone() for name, value in bench.model.state_dict().items()}
    rng = torch.get_rng_state()
    list(Adversarial(eps=(1.0,), samples=8).run(bench))
    assert not any(module.training for module in bench.model.modules())
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(p.grad is None and p.requires_grad for p in bench.model.parameters())
    for name, value in bench.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_gradient_that_is_zero_is_flagged(bench: Bench) -> None:
    class Rounded(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x.mean((1, 2, 3), keepdim=False)[:, None] * 10).round()

    bench.model = Rounded()
    found = list(Adversarial(attacks=("fgsm",), eps=(1.0,), samples=8).run(bench))
    assert all("zero_gradient" in m.row.flags for m in found)


def test_masked_gradients_are_flagged_when_one_step_beats_many(bench: Bench) -> None:
    weak = {"pgd": {"steps": 1, "alpha": 1e-6, "random_start": False}}
    found = list(Adversarial(attacks=("fgsm", weak), eps=(8.0,), samples=24).run(bench))
    flagged = {m.row.condition: "gradient_masking" in m.row.flags for m in found}
    assert flagged == {"fgsm eps=8": False, "pgd eps=8": True}


def test_a_missing_split_is_refused(bench: Bench) -> None:
    with pytest.raises(InputError, match="no split 'reprot'"):
        list(Adversarial(split="reprot").run(bench))


def test_clean_passes_over_splits_the_task_lacks(bench: Bench) -> None:
    found = list(Clean(splits=("val", "ood")).run(bench))
    assert [(m.row.split, m.row.metric) for m in found] == [("val", "error")]


def test_rows_leave_undefined_samples_out_and_say_so(bench: Bench) -> None:
    measurement = bench.measurement(
        probe="p", subject=bench.eager, preprocessing="train", split="report", metric="m", unit="1", better="lower",
        values=np.array([1.0, np.nan, 3.0]), groups=np.array([0, 1, 0]),
    )  # fmt: skip
    row = measurement.row
    assert (row.value, row.n, row.groups, row.flags) == (2.0, 2, 1, ("undefined_samples",))


def test_sequence_values_are_one_per_group(bench: Bench) -> None:
    [metric] = bench.metrics("sequence")
    batch, outputs = bench.batch("report_sequence", "train"), bench.outputs(bench.eager, "report_sequence", "train")
    values, groups = bench.values(metric, (outputs,), batch)
    assert len(values) == len(groups) == 5
    first: Any = metric.compute(outputs[:4], {key: value[:4] for key, value in batch.items()})
    assert float(values[0]) == pytest.approx(float(first))
