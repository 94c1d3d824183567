"""The task files of the benchmarks, on the real data where they are there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from holdfast.core.config import load_study
from holdfast.core.contracts import Task
from holdfast.core.discover import load_task
from holdfast.data.sources import read_jpegs, read_npz
from holdfast.data.table import sensor_batch
from holdfast.study.plan import methods_of

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("HOLDFAST_DATA") or ROOT.parent / "shared" / "data")
NAMES = ("lane_robocar", "rc_track", "mnist")
LENGTHS = {
    "lane_robocar": {"train": 12 * 32, "val": 9, "select": 10, "report": 44},
    "rc_track": {"train": 12 * 310, "val": 30, "select": 60, "report": 119, "report_sequence": 100},
    "mnist": {"train": 12800, "val": 1000, "select": 3000, "report": 10000},
}

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no data: set HOLDFAST_DATA (looked in {DATA})")


@pytest.fixture(scope="module", params=NAMES)
def task(request: pytest.FixtureRequest) -> Iterator[Task]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOLDFAST_DATA", str(DATA))
        if not (DATA / request.param).is_dir():
            pytest.skip(f"no {request.param} under HOLDFAST_DATA")
        yield load_task(f"task.py:{request.param}", base=ROOT / "benchmarks" / request.param)


def test_splits_are_as_documented_and_apart(task: Task) -> None:
    assert {split: len(task.data(split)) for split in LENGTHS[task.name]} == LENGTHS[task.name]
    seen = {
        split: {data[i]["image"].numpy().tobytes() for i in range(min(len(data), 500))}
        for split in ("val", "select", "report")
        for data in [task.data(split)]
    }
    train = task.data("train")
    seen["train"] = {train[i]["image"].numpy().tobytes() for i in range(min(len(train), 400))}
    for split, frames in seen.items():
        for other in set(seen) - {split}:
            assert not frames & seen[other], f"{split} and {other} share frames"
    with pytest.raises(KeyError):
        task.data("unheard_of")


def test_every_pipeline_gives_inputs_in_the_declared_range(task: Task) -> None:
    for split in LENGTHS[task.name]:
        data = task.data(split)
        raw = sensor_batch(data, [0, len(data) // 2, len(data) - 1])
        for name, pipeline in task.pipelines.items():
            task.space.check(pipeline(raw), where=f"{split}, {name}")


def test_a_batch_goes_through_model_loss_and_metrics(task: Task) -> None:
    batch = task.pipelines["train"](sensor_batch(task.data("report"), range(8)))
    with torch.no_grad():
        outputs = task.forward(task.build_model().eval(), batch)
    assert task.loss(outputs, batch).shape == (8,)
    assert bool(task.loss(outputs, batch).isfinite().all())
    for metric in task.metrics:
        assert metric.compute(outputs, batch).shape == ((8,) if metric.over == "sample" else ())
    for drift in (d for d in task.drifts if d.over == "sample"):
        still = drift.compute(outputs, outputs, batch)
        assert bool((still.nan_to_num() == 0).all()), f"{drift.name} of a subject from itself"


def test_groups_never_cross_a_split(task: Task) -> None:
    if task.group is None:
        pytest.skip("samples are independent")
    groups = {}
    for split in ("val", "select"):
        data = task.data(split)
        groups[split] = set(task.group(sensor_batch(data, range(len(data)))))
        assert len(groups[split]) > 1
    assert not groups["val"] & groups["select"]


def test_studies_name_what_exists(task: Task) -> None:
    study = load_study(ROOT / "benchmarks" / task.name / "study.yaml")
    assert len(study.seeds()) >= 5
    assert set(study.preprocessing) <= set(task.pipelines)
    assert all(len(methods_of(study, recipe)) <= 1 for recipe in study.recipes)
    measured = {metric.name for metric in task.metrics} | {drift.name for drift in task.drifts}
    asked = {where.metric for where in (*study.select.objectives, *study.gates)}
    assert asked <= measured | {"failed", "train_cost"}


@pytest.mark.parametrize(("name", "count"), [("train_10000", 10_000), ("test_2000", 2_000)])
def test_joined_jpegs_decode(name: str, count: int) -> None:
    path = DATA / "cifar10_jpeg" / f"{name}.npz"
    if not path.is_file():
        pytest.skip("no cifar10_jpeg under HOLDFAST_DATA")
    images, labels = read_jpegs(path)
    assert images.shape == (count, 3, 32, 32)
    assert sorted(set(labels.tolist())) == list(range(10))


def test_npz_arrays() -> None:
    path = DATA / "kmnist_ood" / "kmnist_test_first2000.npz"
    if not path.is_file():
        pytest.skip("no kmnist_ood under HOLDFAST_DATA")
    images, labels = read_npz(path, "images", "labels")
    assert images.shape[1:] == (28, 28)
    assert len(images) == len(labels) == 2000
