from __future__ import annotations

import dataclasses

import numpy as np
from made_page import MadeShow, made_report

from holdfast.report.curves import adversarial_curves, traces
from holdfast.select.table import Table


def curves_of(report):
    return adversarial_curves(report, Table(report.rows))


def test_one_figure_per_attack_and_its_end_in_words():
    found = curves_of(made_report(3))
    assert [drawn.caption.split(",")[0] for drawn in found] == [
        "lateral_error_42m under fgsm", "lateral_error_42m under pgd",
    ]  # fmt: skip
    assert "at budget 1: baseline 0." in found[0].svg


def test_conditions_of_other_probes_are_no_budgets():
    report = made_report(3)
    odd = ("", "fgsm", "fgsm eps=", "fgsm eps=1.2.3", "fgsm eps=x", "a b eps=1")
    rows = [r for r in report.rows if r.probe != "adversarial"]
    attacked = next(r for r in report.rows if r.probe == "adversarial")
    rows += [dataclasses.replace(attacked, condition=condition) for condition in odd]
    assert curves_of(dataclasses.replace(report, rows=rows)) == []


def test_small_budgets_in_scientific_notation_are_read():
    report = made_report(3)
    rows = [dataclasses.replace(r, condition=r.condition.replace("eps=0.5", "eps=5e-05")) for r in report.rows]
    assert "at budget 1:" in curves_of(dataclasses.replace(report, rows=rows))[0].svg


def test_sway_is_the_deviation_around_the_true_motion():
    truth = np.linspace(0, 1, 40)
    wave = np.where(np.arange(40) % 2, 0.1, -0.1)
    series = {"truth": truth, "reference": truth, "deployed": truth + 0.5 + wave}
    (drawn,) = traces(dataclasses.replace(made_report(2, bare=True), shows=[MadeShow("baseline", "last", (), series)]))
    assert "with a standard deviation of 0.100" in drawn.svg
    assert "under vehicle" in drawn.svg


def test_curves_without_ground_truth_have_no_band():
    series = {"reference: steering": np.zeros(9), "deployed: steering": np.ones(9)}
    (drawn,) = traces(dataclasses.replace(made_report(2, bare=True), shows=[MadeShow("baseline", "last", (), series)]))
    assert "sway band" not in drawn.svg
    assert drawn.caption == "steering over one sequence"
