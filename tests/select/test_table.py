from __future__ import annotations

import pytest
from made_study import DRIFT, ERROR, SWAY, MadeRun, made_study

from holdfast.core.config import Where
from holdfast.core.errors import InputError
from holdfast.select.table import Candidate, Table, candidates_of

BASELINE, FGSM = Candidate("baseline"), Candidate("fgsm")
ERROR_VEHICLE = Where(metric=ERROR, preprocessing="vehicle")


@pytest.fixture(scope="module")
def run():
    return MadeRun(made_study(seeds=3))


def test_candidates_are_recipes_and_their_averages(run):
    names = [c.name for c in candidates_of(run.study)]
    assert names == ["baseline", "jitter", "fgsm", "fgsm (ema)"]


def test_rows_are_found_by_seed(run):
    found = Table(run.rows).collect(ERROR_VEHICLE, candidate=FGSM, split="report")
    assert list(found) == [(0, 0), (1, 1), (2, 2)]
    assert {(r.recipe, r.weights, r.preprocessing, r.subject, r.split) for r in found.values()} == {
        ("fgsm", "last", "vehicle", "eager:fp32", "report")
    }


def test_weights_follow_the_candidate_unless_they_are_pinned(run):
    table = Table(run.rows)
    ema = table.values(ERROR_VEHICLE, candidate=Candidate("fgsm", "ema"), split="select")
    pinned = table.values(ERROR_VEHICLE.model_copy(update={"weights": "ema"}), candidate=FGSM, split="select")
    assert ema == pinned
    assert ema != table.values(ERROR_VEHICLE, candidate=FGSM, split="select")


def test_metrics_over_sequences_are_found_on_the_sequence_split(run):
    found = Table(run.rows).collect(Where(metric=SWAY), candidate=BASELINE, split="select")
    assert {row.split for row in found.values()} == {"select_sequence"}


def test_training_cost_belongs_to_every_kind_of_weights(run):
    cost = Where(metric="train_cost", probe="train", preprocessing="vehicle")
    values = Table(run.rows).values(cost, candidate=Candidate("fgsm", "ema"), split="select")
    assert set(values.values()) == {2.0}


def test_mean_across_seeds(run):
    got = Table(run.rows).across_seeds(ERROR_VEHICLE, candidate=BASELINE, split="select")
    assert got.n == 3
    assert got.estimate == pytest.approx(0.555, rel=0.1)


def test_missing_rows_name_the_part_that_matches_nothing(run):
    with pytest.raises(InputError, match=r"metric 'lateral' is none of .*lateral_error_42m"):
        Table(run.rows).across_seeds(Where(metric="lateral"), candidate=BASELINE, split="select")
    with pytest.raises(InputError, match="recipe 'x' is none of"):
        Table(run.rows).across_seeds(ERROR_VEHICLE, candidate=Candidate("x"), split="select")
    with pytest.raises(InputError, match="'val' has no rows"):
        Table(run.without(probe="train")).across_seeds(ERROR_VEHICLE, candidate=BASELINE, split="val")


def test_infinite_values_are_not_averaged(run):
    rows = run.changed({"recipe": "baseline", "init_seed": 1}, value=float("inf"))
    assert list(Table(rows).values(ERROR_VEHICLE, candidate=BASELINE, split="select")) == [(0, 0), (2, 2)]


def test_two_rows_for_one_question_are_refused(run):
    with pytest.raises(InputError, match="two rows of baseline"):
        Table([*run.rows, *run.rows]).collect(ERROR_VEHICLE, candidate=BASELINE, split="select")


def test_a_question_knows_unit_and_direction(run):
    row = Table(run.rows).row_like(Where(metric=DRIFT, preprocessing="vehicle"), split="select")
    assert (row.unit, row.better) == ("m", "neither")
    assert Table(run.rows).row_like(Where(metric="nothing"), split="select") is None
