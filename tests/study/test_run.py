"""A whole study on the toy task: rows, resuming, failing recipes, bad input, stale rows."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from holdfast.core.config import parse_study
from holdfast.core.errors import InputError
from holdfast.core.store import RunFolder
from holdfast.study.run import Outcome, run_study

Finished = tuple[Path, Outcome]


def run(raw: dict[str, Any], out: Path) -> Outcome:
    return run_study(parse_study(raw), base=Path(), out=out, workers=1, quiet=True)


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> Path:
    """A run folder that may be damaged."""
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


def test_every_cell_of_the_two_factor_table_is_there(finished: Finished) -> None:
    rows = [r for r in RunFolder(finished[0], writer=False).rows() if r.probe == "deployment"]
    found = Counter((r.recipe, r.weights, r.preprocessing, r.subject, r.split, r.metric) for r in rows)
    per_split = {"select": ["error", "shift"], "report": ["error", "shift"],
                 "select_sequence": ["jitter"], "report_sequence": ["jitter"]}  # fmt: skip
    expected = {
        (recipe, weights, pipeline, subject, split, metric)
        for recipe, weights in (("baseline", "last"), ("baseline", "ema"), ("fgsm", "last"))
        for pipeline in ("train", "coarse")
        for subject in ("eager:fp32", "emulated:fp16")
        for split, metrics in per_split.items()
        for metric in metrics
    }
    assert set(found) == expected
    assert set(found.values()) == {2}  # two seeds


def test_rows_say_what_executed_and_how_many_groups_there_were(finished: Finished) -> None:
    rows = RunFolder(finished[0], writer=False).rows()
    emulated = [r for r in rows if r.backend == "emulated"]
    assert emulated
    assert all(r.executed == "fp16 (emulated)" for r in emulated)
    assert {(r.n, r.groups) for r in rows if r.split == "report" and r.probe == "deployment"} == {(24, 6)}


def test_drift_of_the_reference_cell_is_zero_and_of_the_others_not(finished: Finished) -> None:
    rows = [r for r in RunFolder(finished[0], writer=False).rows() if r.metric == "shift" and r.split == "report"]
    for row in rows:
        reference = row.preprocessing == "train" and row.subject == "eager:fp32"
        assert (row.value == 0) == reference, row


def test_training_cost_is_what_the_methods_declare(finished: Finished) -> None:
    rows = RunFolder(finished[0], writer=False).rows()
    cost = {r.recipe: r.value for r in rows if r.metric == "train_cost"}
    assert cost["baseline"] == 1
    assert cost["fgsm"] > 2


def test_the_outcome_is_written_and_passes_its_gate(finished: Finished) -> None:
    out, outcome = finished
    assert outcome.exit_code == 0
    assert outcome.report == out.resolve() / "report.html"
    assert "fp16 (emulated)" in outcome.table
    assert (out / "rows.csv").read_text().count("\n") == 1 + len(RunFolder(out, writer=False).rows())


def test_running_again_repeats_nothing(copied: Path, raw_study: dict[str, Any]) -> None:
    before = (copied / "rows.jsonl").read_bytes()
    run(raw_study, copied)
    assert (copied / "rows.jsonl").read_bytes() == before


def test_rows_are_enough_even_when_weights_and_tables_are_gone(copied: Path, raw_study: dict[str, Any]) -> None:
    before = (copied / "rows.jsonl").read_bytes()
    shutil.rmtree(copied / "weights")
    shutil.rmtree(copied / "tables")
    assert run(raw_study, copied).exit_code == 0
    assert (copied / "rows.jsonl").read_bytes() == before


def test_a_new_probe_costs_only_its_own_cells(copied: Path, raw_study: dict[str, Any]) -> None:
    before = RunFolder(copied, writer=False).rows()
    raw_study["probes"].append({"clean": {"splits": ["val"]}})
    run(raw_study, copied)
    after = RunFolder(copied, writer=False).rows()
    assert after[: len(before)] == before
    assert {r.probe for r in after[len(before) :]} == {"clean"}


def test_changed_settings_leave_stale_rows_out(copied: Path, raw_study: dict[str, Any]) -> None:
    raw_study["recipes"]["fgsm"]["training"] = {"lr": 0.02}
    outcome = run(raw_study, copied)
    rows = RunFolder(copied, writer=False).rows()
    stale = [r for r in rows if r.recipe == "fgsm"]
    assert len({r.cell for r in stale}) == 2 * 2 * 3  # old and new, two seeds, one training and two probes
    assert len((copied / "rows.csv").read_text().splitlines()) - 1 == len(rows) - len(stale) // 2
    assert outcome.exit_code == 0


def test_a_diverging_recipe_is_marked_failed_and_the_others_go_on(tmp_path: Path, raw_study: dict[str, Any]) -> None:
    settings = {"optimiser": "sgd", "lr": 1e18, "schedule": "constant"}
    raw_study["recipes"]["wild"] = {"training": settings}
    raw_study |= {"init_seeds": [0], "order_seeds": [0], "subjects": ["eager:fp32"], "probes": ["deployment"]}
    outcome = run(raw_study, tmp_path)
    with RunFolder(tmp_path) as folder:
        [reason] = folder.failures().values()
    assert "at step" in reason
    assert {r.recipe for r in RunFolder(tmp_path, writer=False).rows()} == {"baseline", "fgsm"}
    assert "wild" in outcome.table
    before = (tmp_path / "rows.jsonl").read_bytes()
    run(raw_study, tmp_path)  # deterministic, so not tried again
    assert (tmp_path / "rows.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task_options": {"poison": "labels"}}, "NaN"),
        ({"preprocessing": ["train", "coarsse"]}, "no pipeline 'coarsse'"),
        ({"subjects": ["eager:fp32", "emulatd:fp16"]}, "emulatd"),
        ({"probes": [{"deploiment": {}}]}, "deploiment"),
        ({"recipes": {"baseline": {"methods": [{"adversarial": {"attack": {"fgms": {}}}}]}}}, "fgms"),
        ({"recipes": {"baseline": {"methods": [{"preprocess_jitter": {"pipelines": ["nope"]}}]}}}, "nope"),
    ],
)
def test_bad_input_is_one_clear_error(
    tmp_path: Path, raw_study: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run({**raw_study, **change}, tmp_path)


@pytest.mark.parametrize("trained", [True, False])
def test_a_study_of_which_nothing_is_left_still_says_why(
    tmp_path: Path, raw_study: dict[str, Any], trained: bool
) -> None:
    settings = {} if trained else {"training": {"optimiser": "sgd", "lr": 1e18, "schedule": "constant"}}
    raw_study |= {"recipes": {"baseline": settings}, "init_seeds": [0], "order_seeds": [0], "gates": []}
    raw_study |= {"subjects": ["eager:fp32"], "probes": [{"adversarial": {"split": "nowhere"}}]}
    raw_study["select"] = {**raw_study["select"], "baseline": "baseline"}
    outcome = run(raw_study, tmp_path)
    with RunFolder(tmp_path) as folder:
        [reason] = folder.failures().values()
    page = outcome.report.read_text()
    assert ("nowhere" if trained else "at step") in reason
    assert ("nowhere" if trained else "at step") in page


def test_weights_files_say_what_they_are(finished: Finished) -> None:
    files = sorted((finished[0] / "weights").rglob("*.safetensors"))
    assert Counter(f.stem for f in files) == {"init": 4, "last": 4, "ema": 2}
    for file in files:
        assert all(value.isfinite().all() for value in load_file(file).values())
    for row in RunFolder(finished[0], writer=False).rows():
        record = json.loads((finished[0] / "provenance" / f"{row.provenance}.json").read_text())
        assert record["torch"] if "torch" in record else record["versions"]["torch"]
        break
