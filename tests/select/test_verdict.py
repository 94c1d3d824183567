from __future__ import annotations

import dataclasses

import pytest
from made_study import DRIFT, ERROR, SWAY, MadeRun, made_study

from holdfast.core.errors import InputError
from holdfast.select.sentence import headline, remarks
from holdfast.select.table import Candidate
from holdfast.select.verdict import judge

NOTHING = {"baseline": 0.40, "jitter": 0.40, "fgsm": 0.40}
NO_GROWTH = {"baseline": 1.0, "jitter": 1.0, "fgsm": 1.0}


def judged(run, rows=None):
    return judge(run.study, run.rows if rows is None else rows)


@pytest.fixture(scope="module")
def five():
    return MadeRun(made_study(seeds=5))


# --- five seeds -----------------------------------------------------------------------------------------


def test_a_separated_recipe_wins(five):
    verdict = judged(five)
    assert verdict.winner == verdict.recommended == Candidate("fgsm", "ema")
    comparison = verdict.of(verdict.recommended).comparison
    assert (comparison.seeds, comparison.family, comparison.finding) == (5, 3, "better")
    text = headline(verdict)
    assert text.startswith("fgsm (ema) beats baseline on vehicle error: 0.4")
    assert "over 5 paired seeds" in text
    assert "after Holm over 3 comparisons" in text


def test_the_split_that_did_not_choose_is_reported(five):
    verdict = judged(five)
    assert verdict.confirmation.finding == "better"
    report = verdict.of(verdict.recommended).report[verdict.primary]
    chosen = verdict.of(verdict.recommended).select[verdict.primary]
    assert report.estimate != chosen.estimate
    assert any(
        "On the report split, which did not choose it, vehicle error is 0.4" in line for line in remarks(verdict)
    )


def test_the_price_and_the_runner_up_are_named(five):
    text = " ".join(remarks(judged(five)))
    assert "It costs: clean error" in text
    assert "training cost 2.00 plain steps against 1.00 plain steps (+100 %)" in text
    assert "Next is fgsm with" in text


def test_data_that_do_not_separate_say_so_and_how_many_seeds_would():
    run = MadeRun(made_study(seeds=5), error=NOTHING, growth=NO_GROWTH, noise=0.1)
    verdict = judged(run)
    assert verdict.winner is None
    text = headline(verdict)
    assert "do not separate" in text or "no recipe does better" in text
    needed = [s.comparison.needed for s in verdict.standings if s.comparison]
    assert all(n is None or n >= 5 for n in needed)


def test_nearly_separated_names_the_number_of_seeds():
    growth = {**NO_GROWTH, "jitter": 0.97, "fgsm": 1.4}
    run = MadeRun(made_study(seeds=5), error=NOTHING, growth=growth, noise=0.08)
    verdict = judged(run)
    assert verdict.of(Candidate("jitter")).comparison.finding == "not separated"
    assert verdict.recommended == Candidate("jitter")
    assert "The data do not separate jitter from baseline on vehicle error" in headline(verdict)
    assert "seeds would separate a difference like this one" in headline(verdict)


def test_the_baseline_may_stay():
    growth = {"baseline": 1.0, "jitter": 1.5, "fgsm": 1.5}
    verdict = judged(MadeRun(made_study(seeds=5), growth=growth))
    assert verdict.recommended == Candidate("baseline")
    assert verdict.confirmation is None
    assert headline(verdict).startswith("No recipe beats baseline, and each of the others is worse: vehicle error 0.3")


# --- fewer --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [3, 4])
def test_three_or_four_seeds_give_a_direction(seeds):
    verdict = judged(MadeRun(made_study(seeds=seeds)))
    assert verdict.winner is None
    assert verdict.of(verdict.recommended).comparison.finding == "direction"
    text = headline(verdict)
    assert text.startswith("For these runs fgsm (ema) is ahead of baseline")
    assert f"in {seeds} of {seeds} seeds" in text
    assert "a direction, not a winner" in text
    assert "p =" not in text


@pytest.mark.parametrize(("seeds", "words"), [(2, "Two seeds are shown, not tested"), (1, "One seed is shown, not")])
def test_two_seeds_are_shown_never_tested(seeds, words):
    verdict = judged(MadeRun(made_study(seeds=seeds)))
    assert verdict.winner is None
    text = headline(verdict) + " ".join(remarks(verdict))
    assert words in text
    assert "p =" not in text
    assert "interval" not in text
    assert "beats" not in text


def test_a_study_of_one_recipe():
    study = made_study(seeds=5, recipes={"plain": {}})
    run = MadeRun(study, error={"plain": 0.3}, growth={"plain": 1.2}, cost={"plain": 1.0})
    verdict = judged(run)
    assert verdict.recommended == Candidate("plain")
    assert headline(verdict).endswith("There is nothing to compare it with.")
    assert "95 % interval" in headline(verdict)


# --- holes ----------------------------------------------------------------------------------------------


def test_a_failed_recipe_is_listed_and_the_others_go_on(five):
    verdict = judged(five, five.without(recipe="fgsm"))
    assert verdict.missing == (Candidate("fgsm"), Candidate("fgsm", "ema"))
    assert verdict.recommended == Candidate("jitter")
    assert any("failed or unfinished: fgsm, fgsm (ema)" in line for line in remarks(verdict))


def test_a_failed_baseline_leaves_nothing_to_compare(five):
    verdict = judged(five, five.without(recipe="baseline"))
    assert verdict.baseline is None
    assert verdict.winner is None
    assert "The baseline has no rows to compare with." in headline(verdict)


def test_a_failed_seed_is_left_out_of_the_pairs(five):
    verdict = judged(five, five.without(recipe="fgsm", init_seed=3))
    assert verdict.of(Candidate("fgsm")).comparison.seeds == 4
    assert any("fgsm (4 of 5)" in line for line in remarks(verdict))


def test_an_objective_without_rows_is_named(five):
    with pytest.raises(InputError, match=r"objective 'clean error'.*metric"):
        judged(five, five.without(metric=ERROR))


def test_no_rows_at_all_select_nothing(five):
    verdict = judged(five, [])
    assert verdict.recommended is None
    assert headline(verdict) == "Nothing to select: no recipe has rows."
    assert remarks(verdict) == ["No rows, failed or unfinished: baseline, jitter, fgsm, fgsm (ema)."]


# --- what may be ranked -----------------------------------------------------------------------------------


def test_a_quantity_without_direction_is_never_ranked(five):
    objective = {"metric": DRIFT, "preprocessing": "vehicle"}
    study = made_study(seeds=5, select={"objectives": [objective]})
    with pytest.raises(InputError, match="neither"):
        judge(study, five.rows)


def test_a_quantity_without_direction_stands_beside_and_moves_nothing(five):
    objectives = [{"metric": ERROR, "preprocessing": "vehicle"}, {"metric": DRIFT, "preprocessing": "vehicle"}]
    beside = judge(made_study(seeds=5, select={"objectives": objectives}), five.rows)
    alone = judge(made_study(seeds=5, select={"objectives": objectives[:1]}), five.rows)
    assert [s.on_front for s in beside.standings] == [s.on_front for s in alone.standings]
    assert beside.axes[1].better == "neither"
    assert beside.of(beside.recommended).select[1] is not None


def test_more_may_be_better(five):
    flipped = [dataclasses.replace(r, better="higher") if r.metric == ERROR else r for r in five.rows]
    verdict = judge(
        made_study(seeds=5, select={"objectives": [{"metric": ERROR, "preprocessing": "vehicle"}]}), flipped
    )
    assert verdict.recommended == Candidate("baseline")


def test_default_objectives_are_the_primary_metric_and_the_cost(five):
    verdict = judge(made_study(seeds=5, select={}), five.rows)
    assert [a.label for a in verdict.axes] == [
        f"{ERROR} under vehicle", f"{ERROR} under train", "training cost",
    ]  # fmt: skip
    assert verdict.recommended == Candidate("fgsm", "ema")


def test_pareto_front_follows_every_axis(five):
    verdict = judged(five)
    on_front = {s.candidate.name for s in verdict.standings if s.on_front}
    assert {"baseline", "fgsm (ema)"} <= on_front  # cheapest and clean, and best under the vehicle's pipeline
    assert "fgsm" not in on_front  # its average is better on every axis and costs the same


def test_sway_is_read_from_the_sequence_split(five):
    verdict = judged(five)
    assert verdict.axes[2].objective.metric == SWAY
    assert verdict.of(Candidate("baseline")).select[2].n == 5


def test_the_same_difference_in_every_seed_is_not_tested(five):
    rows = five.changed({"recipe": "baseline"}, value=0.6)
    rows = [dataclasses.replace(r, value=0.5) if r.recipe != "baseline" else r for r in rows]
    verdict = judged(five, rows)
    assert verdict.winner is None
    assert verdict.of(verdict.recommended).comparison.needed is None
    assert "exactly the same amount, so nothing can be tested" in headline(verdict)
