"""What a study does to its averages: statistics by policy, and files that say what they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from holdfast.core.config import Recipe, parse_study
from holdfast.core.contracts import Metric, Task
from holdfast.core.errors import InputError
from holdfast.core.space import InputSpace, Leaf
from holdfast.data.table import Table
from holdfast.study.averages import settle_averages
from holdfast.study.plan import make_plan
from holdfast.study.run import run_study
from holdfast.weights import files
from holdfast.weights.provenance import averages_beside, describe_weights


def task() -> Task:
    """Is the mean of three columns above zero? Data lie far from zero, so stale statistics give it away."""

    def right(outputs: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return ((outputs[:, 0] > 0) == batch["y"]).float()

    return Task(
        name="columns", build_model=net, data=lambda split: [], loss=lambda o, b: o[:, 0],
        metrics=(Metric(name="spread", compute=lambda o, b: o[:, 0], unit="1", better="neither"),
                 Metric(name="right", compute=right, unit="1", better="higher")),
        space=InputSpace({"x": Leaf(low=-99.0, high=99.0)}),
    )  # fmt: skip


def net() -> nn.Module:
    model = nn.Sequential(nn.BatchNorm1d(3, affine=False), nn.Linear(3, 1, bias=False))
    nn.init.ones_(model[1].weight)
    return model


def table(seed: int) -> Table:
    x = torch.randn(300, 3, generator=torch.Generator().manual_seed(seed))
    return Table({"x": x + 5.0, "y": x.mean(1) > 0})


def stale() -> dict[str, dict[str, torch.Tensor]]:
    return {"last": net().state_dict(), "ema": net().state_dict()}


@pytest.mark.parametrize("policy", ["recalibrate", "auto"])
def test_statistics_are_estimated_anew(policy: str) -> None:
    model = net()
    recipe = Recipe(averages={"ema": {"decay": 0.9}}, batchnorm=policy)
    settled, records = settle_averages(recipe, task(), model, stale(), train=table(0), val=table(1))
    torch.testing.assert_close(settled["ema"]["0.running_mean"], table(0).columns["x"].mean(0), rtol=1e-3, atol=1e-3)
    assert settled["last"]["0.running_mean"].tolist() == [0.0, 0.0, 0.0]
    assert model[0].running_mean.tolist() == [0.0, 0.0, 0.0]
    assert records["ema"]["average"] == "ema"
    assert records["ema"]["batchnorm"]["chosen"] == "recalibrate"
    if policy == "auto":
        scores = records["ema"]["batchnorm"]["scores"]
        assert scores["recalibrate"] > 0.9 > 0.6 > scores["average"]


@pytest.mark.parametrize("policy", ["average", "keep"])
def test_statistics_may_stay(policy: str) -> None:
    recipe = Recipe(averages={"ema": {}}, batchnorm=policy)
    settled, records = settle_averages(recipe, task(), net(), stale(), train=table(0), val=None)
    assert settled["ema"]["0.running_mean"].tolist() == [0.0, 0.0, 0.0]
    assert records["ema"]["batchnorm"] == {"policy": policy, "chosen": policy}


def test_measuring_needs_a_split_to_measure_on() -> None:
    recipe = Recipe(averages={"ema": {}}, batchnorm="auto")
    with pytest.raises(InputError, match="measures on 'val'"):
        settle_averages(recipe, task(), net(), stale(), train=table(0), val=None)


def test_the_policy_and_the_split_it_measures_on_are_part_of_the_key(raw_study: dict[str, Any]) -> None:
    def keys(policy: str) -> set[str]:
        raw_study["recipes"]["baseline"]["batchnorm"] = policy
        study = parse_study(raw_study)
        from holdfast.study.jobs import study_task

        plan = make_plan(study, study_task(study, Path()), base=Path())
        return {cell.key for cell in plan.trainings if cell.recipe == "baseline"}

    assert not keys("average") & keys("auto")


def test_files_of_a_study_say_what_they_are(raw_study: dict[str, Any], tmp_path: Path) -> None:
    raw_study |= {"init_seeds": [0], "order_seeds": [0], "probes": ["deployment"], "subjects": ["eager:fp32"]}
    raw_study["recipes"] = {"baseline": {"averages": {"ema": {"decay": 0.9}, "swa": {}}, "batchnorm": "auto",
                                         "training": {"schedule": "swa"}}}  # fmt: skip
    run_study(parse_study(raw_study), base=Path(), out=tmp_path, workers=1, quiet=True)
    (folder,) = (tmp_path / "weights").iterdir()
    told = {path.stem: files.load(path)[1] for path in folder.glob("*.safetensors")}
    assert set(told["ema"]["batchnorm"]["scores"]) == {"recalibrate", "average", "keep"}
    assert told["ema"]["options"] == {"decay": 0.9}
    assert describe_weights(told["last"]) == "raw"
    assert describe_weights(told["swa"]).startswith("swa, BatchNorm: ")
    assert len(averages_beside(folder / "last.safetensors")) == 2
