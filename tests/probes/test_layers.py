"""Criticality, datapath, laziness and flatness on a classifier that was trained: rows against numbers made by hand."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from holdfast.core.contracts import Measurement, Task
from holdfast.core.errors import InputError, NoEffectError
from holdfast.data.samples import Samples
from holdfast.data.table import Table, sensor_batch
from holdfast.probes.bench import Bench, RunLabel
from holdfast.probes.criticality import Criticality
from holdfast.probes.datapath import Datapath
from holdfast.probes.flatness import Flatness
from holdfast.probes.laziness import Laziness
from holdfast.surgery.owned import swapped
from holdfast.tasks.classification import classification

SIZES = {"train": 600, "val": 200, "report": 300}


def data(split: str) -> Samples:
    """Is the left half brighter, is the top half brighter: four classes."""
    if split not in SIZES:
        raise KeyError(split)
    g = torch.Generator().manual_seed(sorted(SIZES).index(split))
    image = torch.randint(0, 256, (SIZES[split], 1, 6, 6), generator=g, dtype=torch.uint8)
    values = image[:, 0].float()
    left = values[:, :, :3].mean((1, 2)) > values[:, :, 3:].mean((1, 2))
    top = values[:, :3].mean((1, 2)) > values[:, 3:].mean((1, 2))
    return Samples(image=image.numpy(), label=(2 * left.long() + top.long()).numpy())


def build_net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(),
                         nn.Linear(24, 4))  # fmt: skip


def table_of(task: Task, split: str, pipeline: str) -> Table | None:
    try:
        found = data(split)
    except KeyError:
        return None
    return Table(task.pipelines[pipeline](sensor_batch(found, range(len(found)))))


def scaled(batch: Any) -> Any:
    return {**batch, "image": batch["image"].float() / 255}


def dim(batch: Any) -> Any:
    return {**batch, "image": (batch["image"] // 16).float() * 16 / 255}


@pytest.fixture(scope="module")
def trained() -> tuple[Task, nn.Module, dict[str, Tensor]]:
    task = classification(name="halves", build_model=build_net, data=data, pipelines={"train": scaled, "dim": dim})
    torch.manual_seed(0)
    model = task.build_model()
    initial = copy.deepcopy(model.state_dict())
    batch = table_of(task, "train", "train").columns
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for indices in torch.arange(600).repeat(15).split(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(batch["image"][indices]), batch["label"][indices]).backward()
        optimiser.step()
    optimiser.zero_grad()
    return task, model.eval(), initial


@pytest.fixture
def bench(trained: tuple[Task, nn.Module, dict[str, Tensor]]) -> Bench:
    task, model, initial = trained
    return Bench(
        label=RunLabel(study="s", recipe="r", init_seed=0, order_seed=0, weights="last"), task=task, model=model,
        open_table=lambda split, pipeline: table_of(task, split, pipeline), open_subjects=list,
        preprocessing=["train", "dim"], initial=initial,
    )  # fmt: skip


def value_of(found: list[Measurement], condition: str, metric: str) -> float:
    (row,) = [m.row for m in found if (m.row.condition, m.row.metric) == (condition, metric)]
    return row.value


def accuracy(bench: Bench, tensors: dict[str, Tensor]) -> float:
    batch = bench.batch("report", "train")
    with torch.no_grad(), swapped(bench.model, tensors):
        return float((bench.model(batch["image"]).argmax(1) == batch["label"]).double().mean())


def test_a_reset_layer_scores_what_it_scores_by_hand(bench: Bench) -> None:
    found = list(Criticality(risk=0.0, draws=3).run(bench))
    assert value_of(found, "reference", "accuracy") == pytest.approx(accuracy(bench, {}))
    assert value_of(found, "reference", "accuracy") > 0.85
    for layer in ("1", "2", "4", "6"):
        names = [f"{layer}.weight", f"{layer}.bias"]
        expected = accuracy(bench, {name: bench.initial[name] for name in names})
        assert value_of(found, f"reinit {layer}", "accuracy") == pytest.approx(expected)
        limit = value_of(found, "reference", "accuracy") * 0.95
        assert value_of(found, f"reinit {layer}", "critical") == (expected < limit)
        assert value_of(found, f"travel {layer}", "travel_l2") > 0
    assert value_of(found, "rerand 1", "accuracy") < 0.8
    assert value_of(found, "rerand 1", "draw_spread") > 0
    assert value_of(found, "reinit 1", "flipped") > 0
    assert "reinit 1 recalibrated" in {m.row.condition for m in found}
    assert not any(m.row.flags for m in found)


def test_a_model_that_breaks_is_critical(bench: Bench) -> None:
    names = ("4.weight", "4.bias")
    bench.initial = {**bench.initial, **{name: torch.full_like(bench.initial[name], torch.nan) for name in names}}
    bench.task = replace(bench.task, metrics=bench.task.metrics[1:])  # nll, which becomes NaN
    found = list(Criticality(kinds=("reinit",), layers=("4",), recalibration=0).run(bench))
    assert {m.row.value for m in found if (m.row.condition, m.row.metric) == ("reinit 4", "critical")} == {1.0}


def test_a_layer_goes_back_to_any_checkpoint(bench: Bench) -> None:
    own = {name: value.clone() for name, value in bench.model.state_dict().items()}
    bench.checkpoints = {"epoch 15": own}
    found = list(Criticality(kinds=("reinit",), layers=("4",), recalibration=0, risk=0.0).run(bench))
    assert value_of(found, "reinit epoch 15 4", "accuracy") == value_of(found, "reference", "accuracy")
    assert value_of(found, "reinit epoch 15 4", "flipped") == 0
    assert value_of(found, "reinit 4", "flipped") > 0


def test_recalibrated_statistics_belong_to_the_changed_layer(bench: Bench) -> None:
    found = list(Criticality(kinds=("reinit",), layers=("1",), risk=0.0, recalibration=600).run(bench))
    model = copy.deepcopy(bench.model)
    state = {**model.state_dict(), **{n: bench.initial[n] for n in ("1.weight", "1.bias")}}
    model.load_state_dict(state)
    batch, train = bench.batch("report", "train"), bench.batch("train", "train")
    with torch.no_grad():
        before = model[1](model[0](train["image"]))
        model[2].running_mean.copy_(before.mean(0))
        parts = before.split(128)
        model[2].running_var.copy_(sum(part.var(0) * len(part) for part in parts) / 600)
        expected = float((model(batch["image"]).argmax(1) == batch["label"]).double().mean())
    assert value_of(found, "reinit 1 recalibrated", "accuracy") == pytest.approx(expected, abs=0.011)
    assert value_of(found, "reinit 1", "accuracy") != value_of(found, "reinit 1 recalibrated", "accuracy")


def test_one_layer_at_another_precision_is_ranked_by_drift(bench: Bench) -> None:
    found = list(Criticality(kinds=("int8", "fp16"), recalibration=0).run(bench))
    conditions = {m.row.condition for m in found if " " in m.row.condition and "travel" not in m.row.condition}
    drift = {condition: value_of(found, condition, "total_variation") for condition in conditions}
    assert {"int8 1", "int8 4", "int8 6", "fp16 1", "fp16 2", "fp16 6"} <= set(drift)
    assert "int8 2" not in drift  # a norm layer is not quantised by itself
    assert all(drift[f"int8 {layer}"] > drift[f"fp16 {layer}"] > 0 for layer in ("1", "4", "6"))


def test_draws_come_from_the_recorded_law(bench: Bench) -> None:
    seen = []

    def redraw(seed: int) -> dict[str, Tensor]:
        seen.append(seed)
        torch.manual_seed(seed)
        return build_net().state_dict()

    with torch.random.fork_rng():
        bench.redraw = redraw
        list(Criticality(kinds=("rerand",), draws=2, recalibration=0).run(bench))
    assert sorted(seen) == [1, 2]  # once for all layers
    bench.redraw = bench.initial = None
    flagged = {m.row.flags for m in Criticality(kinds=("rerand",), draws=1, recalibration=0).run(bench)
               if m.row.condition.startswith("rerand")}  # fmt: skip
    assert flagged == {("init_law_assumed",)}


def test_what_criticality_cannot_do_is_refused(bench: Bench) -> None:
    with pytest.raises(InputError, match="unknown kind 'reint'"):
        Criticality(kinds=("reint",))
    with pytest.raises(InputError, match="no layer 'head'"):
        list(Criticality(layers=("head",)).run(bench))
    bench.initial = None
    with pytest.raises(InputError, match="keep the weights before training"):
        list(Criticality(kinds=("reinit",)).run(bench))


def test_the_datapath_sees_a_precision_begin_and_a_pipeline_everywhere(bench: Bench) -> None:
    found = list(Datapath(samples=64).run(bench))
    conditions = {m.row.condition for m in found if m.row.preprocessing == "train"}
    assert conditions == {f"{layer} fp16" for layer in ("1", "2", "4", "6")}
    fp16 = [value_of(found, f"{layer} fp16", "output_db") for layer in ("1", "2", "4", "6")]
    assert all(40 < value < 90 for value in fp16)
    others = {
        m.row.condition: m.row.value for m in found if m.row.preprocessing == "dim" and m.row.metric == "input_db"
    }
    assert 20 < others["1"] < 40  # rounding to sixteen levels
    overlap = [m.row.value for m in found if m.row.metric == "overlap"]
    assert all(0 <= value <= 1 for value in overlap)
    assert min(overlap) < 1
    with pytest.raises(InputError, match="cannot emulate 'fp12'"):
        Datapath(precisions=("fp12",))


def test_laziness_rows_are_those_of_the_functions(bench: Bench) -> None:
    found = list(Laziness(samples=200, kernel_samples=24).run(bench))
    assert 0.01 < value_of(found, "all", "flips") < 0.5
    assert {m.row.condition for m in found if m.row.metric == "flips"} == {"3", "5", "all"}
    assert value_of(found, "", "linearisation_error") > 0.05
    assert 0 < value_of(found, "", "kernel_drift") < 1
    moved = (bench.model[4].weight.detach() - bench.initial["4.weight"]).norm(dim=1).max() * 24**0.5
    assert value_of(found, "4", "travel_row") == pytest.approx(float(moved), rel=1e-5)


def test_laziness_needs_a_start_and_a_training(bench: Bench) -> None:
    bench.initial = {name: value.clone() for name, value in bench.model.state_dict().items()}
    with pytest.raises(NoEffectError, match="those before training"):
        list(Laziness().run(bench))
    bench.initial = None
    with pytest.raises(InputError, match="were not kept"):
        list(Laziness().run(bench))


def test_flatness_rows_are_those_of_the_functions(bench: Bench) -> None:
    found = list(Flatness(samples=200, directions=4, iterations=30).run(bench))
    rises = {r: value_of(found, f"filter s={r:g}", "ray_rise") for r in (0.05, 0.1, 0.2, 0.4, 0.8)}
    assert rises[0.8] > rises[0.2] > 0
    assert 0 < value_of(found, "filter", "radius") <= 0.8
    assert value_of(found, "plain", "sharpness") > 0
    assert value_of(found, "adaptive", "sharpness") > 0
    top = value_of(found, "", "hessian_top")
    # Along no direction does the loss rise faster than the largest curvature says, but for the higher orders.
    (ray,) = [m for m in found if (m.row.condition, m.row.metric) == ("plain s=0.05", "ray_rise")]
    length = float(torch.cat([p.detach().flatten() for p in bench.model.parameters()]).norm()) * 0.05
    assert 2 * np.mean(ray.values) / length**2 < top * 1.5
    assert np.isfinite(value_of(found, "init to last", "barrier"))
    bench.initial = None
    assert "barrier" not in {m.row.metric for m in Flatness(samples=50, directions=1, iterations=0).run(bench)}
