from __future__ import annotations

import math

import numpy as np
import pytest
from made_study import ERROR, SWAY, MadeRun, made_study
from scipy import stats as oracle

from holdfast.select.gates import check_gates, exit_code
from holdfast.select.verdict import judge

VEHICLE = {"metric": ERROR, "preprocessing": "vehicle", "recipe": "fgsm"}


def check(seeds, *gates, rows=None, noise=0.03):
    study = made_study(seeds=seeds, gates=[{"name": f"gate {i}", **gate} for i, gate in enumerate(gates)])
    run = MadeRun(study, noise=noise)
    rows = run.rows if rows is None else rows(run)
    return run, check_gates(study, rows, judge(study, rows), run.samples)


def outcomes(results):
    return [r.outcome for r in results]


# --- limits ---------------------------------------------------------------------------------------------


def test_a_limit_is_decided_over_seeds():
    run, (far, near, below) = check(5, {**VEHICLE, "max": 0.6}, {**VEHICLE, "max": 0.475}, {**VEHICLE, "max": 0.3})
    assert outcomes([far, near, below]) == ["PASS", "INCONCLUSIVE", "FAIL"]
    values = [r.value for r in run.rows
              if (r.recipe, r.weights, r.preprocessing, r.split, r.metric, r.subject) ==
              ("fgsm", "last", "vehicle", "report", ERROR, "eager:fp32")]  # fmt: skip
    upper = oracle.t.interval(0.90, 4, loc=np.mean(values), scale=oracle.sem(values))[1]
    assert far.interval.high == pytest.approx(upper)
    assert (far.seeds, far.samples, far.groups, far.unit) == (5, 120, 30, "m")
    assert "95 % upper bound" in far.reason
    assert "over 5 seeds" in far.reason
    assert near.needed.endswith("seeds")
    assert "would decide" in near.reason
    assert far.needed == below.needed == ""


def test_a_lower_limit_for_metrics_of_which_more_is_better():
    _, results = check(5, {**VEHICLE, "min": 0.3}, {**VEHICLE, "min": 0.6})
    assert outcomes(results) == ["PASS", "FAIL"]
    assert "lower bound" in results[0].reason


@pytest.mark.parametrize("seeds", [1, 2])
def test_with_few_seeds_a_gate_speaks_of_the_runs(seeds):
    _, (result,) = check(seeds, {**VEHICLE, "max": 0.6})
    assert result.outcome == "PASS"
    assert ("for this run" if seeds == 1 else "for these 2 runs") in result.reason
    assert "BCa bootstrap over 30 groups" in result.reason


def test_the_worst_run_decides():
    def one_bad_run(run):
        for row in run.rows:
            if (row.recipe, row.init_seed, row.metric, row.preprocessing) == ("fgsm", 1, ERROR, "vehicle"):
                values, groups = run.values[row.samples]
                run.values[row.samples] = (values + 1.0, groups)
        return run.rows

    _, (result,) = check(2, {**VEHICLE, "max": 0.6}, rows=one_bad_run)
    assert result.outcome == "FAIL"


def test_two_sequences_are_too_few_to_bootstrap():
    _, (result,) = check(1, {"metric": SWAY, "preprocessing": "vehicle", "recipe": "fgsm", "max": 0.2})
    assert result.outcome == "INCONCLUSIVE"
    assert "t over 2 groups" in result.reason
    assert result.needed.endswith("groups")


# --- ratios ---------------------------------------------------------------------------------------------


def test_growth_is_a_ratio_by_seed():
    _, (fgsm, baseline) = check(
        5, {**VEHICLE, "relative_to": "train", "max": 1.2}, {**VEHICLE, "recipe": "baseline", "relative_to": "train",
                                                             "max": 1.1})  # fmt: skip
    assert outcomes([fgsm, baseline]) == ["PASS", "FAIL"]
    assert fgsm.interval.estimate == pytest.approx(1.05, rel=0.05)
    assert fgsm.unit == "×"
    assert "ratio ×1.0" in fgsm.reason


def test_growth_within_a_run_pairs_the_samples():
    run, (result,) = check(1, {**VEHICLE, "relative_to": "train", "max": 1.2})
    assert result.outcome == "PASS"
    growth = [r.value for r in run.rows if (r.recipe, r.weights, r.metric, r.split, r.subject, r.probe) ==
              ("fgsm", "last", ERROR, "report", "eager:fp32", "deployment")]  # fmt: skip
    assert result.interval.estimate == pytest.approx(growth[1] / growth[0])
    assert result.interval.low == pytest.approx(result.interval.high)  # the samples grow by one common factor


def test_growth_over_few_groups_uses_their_own_ratios():
    gate = {"metric": SWAY, "preprocessing": "vehicle", "relative_to": "train", "max": 1.2, "recipe": "fgsm"}
    _, (result,) = check(1, gate)
    assert result.outcome == "PASS"
    assert "t over 2 groups" in result.reason


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_ratio_of_nothing_is_inconclusive(seeds):
    def zero(run):
        run.values = {key: (values * 0, groups) for key, (values, groups) in run.values.items()}
        return run.changed({"metric": ERROR, "preprocessing": "train"}, value=0.0)

    _, (result,) = check(seeds, {**VEHICLE, "relative_to": "train", "max": 1.2}, rows=zero)
    assert result.outcome == "INCONCLUSIVE"
    assert "positive values" in result.reason


# --- equivalence ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_equivalence_of_two_subjects(seeds):
    gate = {**VEHICLE, "subject": "onnxruntime:int8", "equivalent_to": "eager:fp32"}
    _, results = check(seeds, {**gate, "margin": 0.05}, {**gate, "margin": 0.001}, {**gate, "margin": 0.00473})
    assert outcomes(results[:2]) == ["PASS", "FAIL"]
    assert "90 % interval" in results[0].reason
    assert "margin ±0.0500 m" in results[0].reason
    assert results[2].seeds == seeds
    assert results[0].executed == ("int8", "fp32")


def test_equivalence_of_two_pipelines():
    _, results = check(
        5, {**VEHICLE, "equivalent_preprocessing": "train", "margin": 0.1},
        {**VEHICLE, "recipe": "baseline", "equivalent_preprocessing": "train", "margin": 0.1})  # fmt: skip
    assert outcomes(results) == ["PASS", "FAIL"]


def test_exact_agreement_is_equivalent():
    gate = {**VEHICLE, "subject": "emulated:fp16", "equivalent_to": "eager:fp32", "margin": 1e-6}
    for seeds in (1, 3):
        _, (result,) = check(seeds, gate)
        assert result.outcome == "PASS"


def test_no_difference_shown_is_not_parity():
    gate = {"metric": ERROR, "recipe": "baseline", "preprocessing": "vehicle", "subject": "eager:fp32"}
    _, (result,) = check(3, {**gate, "equivalent_preprocessing": "train", "margin": 0.19}, noise=0.2)
    assert result.outcome == "INCONCLUSIVE"


# --- doubt --------------------------------------------------------------------------------------------------


def test_a_flag_that_voids_turns_a_pass_into_inconclusive():
    def not_executed(run):
        return run.changed({"recipe": "fgsm", "preprocessing": "vehicle"}, flags=("precision_not_executed",))

    _, results = check(5, {**VEHICLE, "max": 0.6}, {**VEHICLE, "max": 0.3}, rows=not_executed)
    assert outcomes(results) == ["INCONCLUSIVE", "FAIL"]
    assert "precision_not_executed" in results[0].reason


def test_a_question_without_rows_is_inconclusive_and_says_why():
    _, results = check(3, {**VEHICLE, "metric": "lateral", "max": 1.0}, {**VEHICLE, "subject": "trt:fp16", "max": 1.0})
    assert outcomes(results) == ["INCONCLUSIVE"] * 2
    assert "metric 'lateral' is none of" in results[0].reason
    assert "subject 'trt:fp16' is none of" in results[1].reason
    assert math.isnan(results[0].interval.estimate) if results[0].interval else True


def test_one_seed_without_samples_is_inconclusive():
    _, (result,) = check(1, {**VEHICLE, "max": 0.6}, rows=lambda run: run.changed({}, samples=""))
    assert result.outcome == "INCONCLUSIVE"
    assert "no per-sample values" in result.reason


def test_undefined_samples_leave_the_pairs():
    def hole(run):
        for key, (values, groups) in run.values.items():
            run.values[key] = (np.where(np.arange(len(values)) == 3, np.nan, values), groups)
        return run.rows

    gate = {**VEHICLE, "subject": "onnxruntime:int8", "equivalent_to": "eager:fp32", "margin": 0.05}
    _, results = check(1, {**VEHICLE, "max": 0.6}, gate, {**VEHICLE, "relative_to": "train", "max": 1.2}, rows=hole)
    assert outcomes(results) == ["PASS"] * 3


def test_recommended_means_the_selected_weights():
    _, (result, pinned) = check(5, {"metric": ERROR, "max": 1.0}, {"metric": ERROR, "weights": "last", "max": 1.0})
    assert result.candidate.name == "fgsm (ema)"
    assert pinned.candidate.name == "fgsm"


@pytest.mark.parametrize(
    ("found", "code"),
    [([], 0), (["PASS"], 0), (["PASS", "INCONCLUSIVE"], 3), (["INCONCLUSIVE", "FAIL", "PASS"], 1)],
)
def test_exit_codes(found, code):
    _, (template,) = check(3, {**VEHICLE, "max": 0.6})
    results = [type(template)(gate=template.gate, candidate=None, outcome=o, reason="") for o in found]
    assert exit_code(results) == code
