from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from holdfast.cli.main import main
from holdfast.weights import files
from holdfast.weights.posthoc_ema import PostHocEMA

TASK = """
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from holdfast.core.contracts import Metric, Task
from holdfast.core.space import InputSpace, Leaf

SPLITS = {"train": (600, 0, 0.6), "val": (300, 1, 0.6), "select": (400, 2, 0.6), "report": (400, 3, 0.6),
          "ood": (400, 4, 0.0)}

def build_model():
    torch.manual_seed(0)
    hidden = [nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(32, 4))

def samples(split):
    count, seed, turn = SPLITS[split]
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(4, 8, generator=torch.Generator().manual_seed(9))
    labels = torch.randint(4, (count,), generator=generator)
    inputs = (centres[labels] + torch.randn(count, 8, generator=generator))
    return inputs * (1 - turn) + inputs.roll(1, dims=1) * turn, labels

class Split:
    def __init__(self, split):
        self.inputs, self.labels = samples(split)
    def __len__(self):
        return len(self.labels)
    def __getitem__(self, index):
        return {"x": self.inputs[index], "label": self.labels[index]}

def correct(outputs, batch):
    return (outputs.argmax(1) == batch["label"]).float()

task = Task(
    name="clusters", build_model=build_model, data=Split,
    loss=lambda outputs, batch: cross_entropy(outputs, batch["label"], reduction="none"),
    metrics=(Metric(name="accuracy", compute=correct, unit="1", better="higher"),
             Metric(name="width", compute=lambda o, b: o.std(1), unit="1", better="neither")),
    space=InputSpace({"x": Leaf(low=-20.0, high=20.0)}),
)
"""


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task file, a base model, four fine-tunes of it and a stranger."""
    folder = tmp_path_factory.mktemp("kitchen")
    (folder / "clusters.py").write_text(TASK)
    space: dict[str, Any] = {}
    exec(TASK, space)
    model = space["build_model"]()
    fit(model, *space["samples"]("ood"), lr=5e-3, steps=150, seed=0)
    files.save(folder / "base.safetensors", model.state_dict())
    (folder / "tuned").mkdir()
    for seed in range(4):
        model.load_state_dict(files.load(folder / "base.safetensors")[0])
        fit(model, *space["samples"]("train"), lr=(1 + seed) * 1e-3, steps=40, seed=seed)
        files.save(folder / "tuned" / f"{seed}.safetensors", model.state_dict())
    files.save(folder / "stranger.safetensors", shuffled(model.state_dict()))
    return folder


def shuffled(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same function with its hidden units in another order: as good by itself, in another basin."""
    first, second = torch.arange(31, -1, -1), torch.arange(31, -1, -1).roll(7)
    turned = {name: value[first] if value.shape[:1] == (32,) else value for name, value in state.items()}
    turned["3.weight"] = state["3.weight"][second][:, first]
    turned["3.bias"] = state["3.bias"][second]
    turned["5.weight"] = state["5.weight"][:, second]
    return {name: value.contiguous() for name, value in turned.items()}


def fit(model: nn.Module, inputs: Tensor, labels: Tensor, *, lr: float, steps: int, seed: int) -> None:
    optimiser = torch.optim.Adam(model.parameters(), lr=lr)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(steps):
        indices = torch.randint(len(labels), (64,), generator=generator)
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(inputs[indices]), labels[indices]).backward()
        optimiser.step()


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return int(end.value.code or 0)


def average(kitchen: Path, out: Path, *arguments: object, task: bool = True) -> int:
    told = ("--task", f"{kitchen / 'clusters.py'}:task") if task else ()
    return run("average", *arguments, "--out", out, *told)


def test_a_folder_becomes_a_uniform_soup_without_any_task(kitchen: Path, tmp_path: Path) -> None:
    out = tmp_path / "soup.safetensors"
    assert average(kitchen, out, kitchen / "tuned", task=False) == 0
    states = [load_file(kitchen / "tuned" / f"{seed}.safetensors") for seed in range(4)]
    expected = sum(state["0.weight"] for state in states) / 4
    torch.testing.assert_close(load_file(out)["0.weight"], expected)
    _, told = files.load(out)
    assert told["average"] == "uniform soup"
    assert told["batchnorm"] == {"policy": "average", "chosen": "average"}
    assert len({ingredient["sha256"] for ingredient in told["ingredients"]}) == 4


@pytest.mark.parametrize("method", ["uniform", "greedy", "learned", "fisher"])
def test_methods_that_measure_write_what_they_did(
    kitchen: Path, tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "soup.safetensors"
    assert average(kitchen, out, kitchen / "tuned", "--method", method, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    _, told = files.load(out)
    assert told["average"] == record["average"]
    assert told["batchnorm"]["chosen"] in ("recalibrate", "average", "keep")
    assert set(told["batchnorm"]["scores"]) == {"recalibrate", "average", "keep"}
    assert told["report"]["score"] == "accuracy on report"
    assert told["report"]["value"] > 0.6
    assert len(told["ingredients"]) == 4


def test_a_greedy_soup_gives_reasons_and_reports_on_another_split(
    kitchen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "soup.safetensors"
    ingredients = (kitchen / "tuned", kitchen / "stranger.safetensors")
    assert average(kitchen, out, *ingredients, "--method", "greedy", "--metric", "accuracy") == 0
    shown = capsys.readouterr().out
    assert "the best by itself" in shown
    _, told = files.load(out)
    assert told["selected_on"] == "accuracy on select"
    assert len(told["trials"]) == 5
    assert all(trial["reason"] for trial in told["trials"])
    assert "best_ingredient_value" in told["report"]


def test_known_scores_are_not_measured_again(kitchen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (kitchen / "tuned", "--method", "greedy", "--scores", tmp_path / "scores.json", "--json")
    records = []
    for _ in range(2):
        assert average(kitchen, tmp_path / "soup.safetensors", *arguments) == 0
        records.append(json.loads(capsys.readouterr().out))
    assert records[0]["members"] == records[1]["members"]
    assert records[1]["evaluations"] <= records[0]["evaluations"] - 1
    (tmp_path / "scores.json").write_text("[1]")
    assert average(kitchen, tmp_path / "soup.safetensors", *arguments) == 2
    assert "holds no scores" in capsys.readouterr().err


def test_strangers_are_refused_before_anything_is_written(
    kitchen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "soup.safetensors"
    pair = (kitchen / "tuned" / "0.safetensors", kitchen / "stranger.safetensors")
    assert average(kitchen, out, *pair) == 2
    assert "they share no basin" in capsys.readouterr().err
    assert not out.exists()
    assert average(kitchen, out, *pair, "--barrier", "flag") == 0
    assert files.load(out)[1]["barriers"]["1: stranger.safetensors"]["verdict"] == "blocked"


def test_unrelated_weights_are_flagged_even_without_a_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        files.save(tmp_path / f"{seed}.safetensors", nn.Linear(50, 50).state_dict())
    assert run("average", *[tmp_path / f"{s}.safetensors" for s in range(3)], "--out", tmp_path / "o.safetensors") == 0
    assert "cancel like unrelated networks" in capsys.readouterr().out


def test_model_stock_needs_its_anchor_and_no_task(kitchen: Path, tmp_path: Path) -> None:
    out = tmp_path / "stock.safetensors"
    pair = (kitchen / "tuned" / "0.safetensors", kitchen / "tuned" / "1.safetensors", "--method", "model-stock")
    assert average(kitchen, out, *pair, task=False) == 2
    assert average(kitchen, out, *pair, "--anchor", kitchen / "base.safetensors", task=False) == 0
    assert files.load(out)[1]["average"] == "model stock"


def test_snapshots_of_a_post_hoc_ema_give_any_width(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 3)
    running = PostHocEMA(every_steps=10).start(model)
    for _ in range(100):
        with torch.no_grad():
            model.weight.add_(0.1 * torch.randn(3, 3))
        running.update(model)
    for index, (state, metadata) in enumerate(running.snapshots()):
        files.save(tmp_path / f"{index}.safetensors", state, metadata)
    out = tmp_path / "out" / "w.safetensors"
    assert run("average", tmp_path, "--method", "posthoc-ema", "--width", "0.15", "--out", out) == 0
    torch.testing.assert_close(load_file(out)["weight"], running.at(0.15)["weight"], rtol=1e-3, atol=1e-4)
    assert files.load(out)[1]["width"] == 0.15
    files.save(tmp_path / "plain.safetensors", model.state_dict())
    assert run("average", tmp_path / "plain.safetensors", "--method", "posthoc-ema", "--out", out) == 2
    assert "is no snapshot" in capsys.readouterr().err


def test_the_path_is_measured_on_several_domains_and_drawn(kitchen: Path, tmp_path: Path) -> None:
    out = tmp_path / "wise.safetensors"
    ends = (kitchen / "base.safetensors", kitchen / "tuned" / "3.safetensors")
    walked = ("--wise-ft", "--alphas", "0:1:5", "--domain", "select", "--domain", "ood", "--batchnorm", "average")
    assert average(kitchen, out, *ends, *walked) == 0
    _, told = files.load(out)
    assert [row["alpha"] for row in told["path"]] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert told["path"][0]["ood"] > told["path"][-1]["ood"]
    assert told["path"][0]["select"] < told["path"][-1]["select"]
    picture = (tmp_path / "wise.svg").read_text()
    assert all(word in picture for word in ("start", "end", "best mean"))


def test_the_path_is_measured_as_it_ships_and_reported_on_another_split(kitchen: Path, tmp_path: Path) -> None:
    out = tmp_path / "wise.safetensors"
    ends = (kitchen / "base.safetensors", kitchen / "tuned" / "3.safetensors")
    walked = ("--wise-ft", "--alphas", "0,0.5,1", "--batchnorm", "average")
    domains = ("--domain", "select", "--domain", "select@emulated:bf16")
    assert average(kitchen, out, *ends, *walked, *domains) == 0
    _, told = files.load(out)
    assert told["domains"] == ["accuracy on select", "accuracy on select as emulated:bf16"]
    for row in told["path"]:
        assert abs(row["select"] - row["select@emulated:bf16"]) < 0.03
    assert told["report"]["score"] == "accuracy on report"
    assert average(kitchen, out, *ends, *walked, "--domain", "select", "--domain", "report") == 0
    assert "report" not in files.load(out)[1]


@pytest.mark.parametrize(
    ("subject", "message"), [("emulated:fp3", "emulated"), ("nowhere:fp16", "no backend 'nowhere'")]
)
def test_a_precision_that_cannot_run_is_refused(
    kitchen: Path, tmp_path: Path, subject: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = (kitchen / "base.safetensors", kitchen / "tuned" / "3.safetensors")
    assert average(kitchen, tmp_path / "w.safetensors", *ends, "--wise-ft", "--domain", f"select@{subject}") == 2
    assert message in capsys.readouterr().err


def test_a_split_that_chose_is_not_reported(kitchen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("select", "val"):
        arguments = (kitchen / "tuned", "--method", "greedy", "--report-split", split)
        assert average(kitchen, tmp_path / "o.safetensors", *arguments) == 2
        assert f"split '{split}' chose" in capsys.readouterr().err
    assert not (tmp_path / "o.safetensors").exists()


def test_the_margin_among_statistics_is_stated(kitchen: Path, tmp_path: Path) -> None:
    out = tmp_path / "soup.safetensors"
    assert average(kitchen, out, kitchen / "tuned", "--margin", "1") == 0
    told = files.load(out)[1]["batchnorm"]
    assert (told["margin"], told["chosen"], told["ties"][0]) == (1.0, "recalibrate", "recalibrate")


def test_a_path_without_a_task_becomes_files(kitchen: Path, tmp_path: Path) -> None:
    ends = (kitchen / "base.safetensors", kitchen / "tuned" / "0.safetensors")
    assert average(kitchen, tmp_path / "w.safetensors", *ends, "--wise-ft", "--alphas", "0,0.5,1", task=False) == 0
    found = [load_file(tmp_path / f"w-{alpha}.safetensors") for alpha in ("0", "0.5", "1")]
    ends_read = [load_file(path) for path in ends]
    assert torch.equal(found[0]["0.weight"], ends_read[0]["0.weight"])
    assert torch.equal(found[2]["0.weight"], ends_read[1]["0.weight"])
    torch.testing.assert_close(found[1]["0.weight"], (ends_read[0]["0.weight"] + ends_read[1]["0.weight"]) / 2)


def test_a_path_by_fisher_values(kitchen: Path, tmp_path: Path) -> None:
    out = tmp_path / "w.safetensors"
    ends = (kitchen / "base.safetensors", kitchen / "tuned" / "0.safetensors")
    assert average(kitchen, out, *ends, "--wise-ft", "--fisher", "--alphas", "0,0.5,1") == 0
    assert files.load(out)[1]["batchnorm"]["chosen"] == "recalibrate"


def test_a_table_of_mismatches_comes_before_a_one_line_error(
    kitchen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files.save(tmp_path / "other.safetensors", {"0.weight": torch.zeros(2)})
    pair = (kitchen / "base.safetensors", tmp_path / "other.safetensors")
    assert average(kitchen, tmp_path / "o.safetensors", *pair, task=False) == 2
    *table, last = capsys.readouterr().err.strip().splitlines()
    assert any("0.weight: float32 (32, 8) in base.safetensors, float32 (2,) in 1: other" in line for line in table)
    assert last.startswith("holdfast: weights: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--method", "greedy"), "give --task"),
        (("--wise-ft", "--alphas", "0,x"), "is no list of numbers"),
        (("--wise-ft",), "name the start and the end"),
    ],
)
def test_what_is_missing_is_asked_for(
    kitchen: Path, tmp_path: Path, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert average(kitchen, tmp_path / "o.safetensors", kitchen / "tuned", *arguments, task=False) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--metric", "acuracy"), "accuracy"),
        (("--metric", "width"), "has no direction"),
        (("--select-split", "nowhere"), "no split 'nowhere'"),
    ],
)
def test_what_the_task_lacks_is_named(
    kitchen: Path, tmp_path: Path, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = kitchen / "tuned"
    assert average(kitchen, tmp_path / "o.safetensors", tuned, "--method", "greedy", *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_result_is_no_ingredient_of_the_next_one(tmp_path: Path) -> None:
    for value in (1.0, 3.0):
        files.save(tmp_path / f"{value:g}.safetensors", {"w": torch.full((2,), value)})
    for _ in range(2):
        assert run("average", tmp_path, "--out", tmp_path / "soup.safetensors") == 0
        assert len(files.load(tmp_path / "soup.safetensors")[1]["ingredients"]) == 2


def test_an_empty_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("average", tmp_path, "--out", tmp_path / "o.safetensors") == 2
    assert "holds no weight files" in capsys.readouterr().err
