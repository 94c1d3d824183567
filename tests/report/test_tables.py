from __future__ import annotations

import pytest
from made_page import made_report
from made_study import ERROR, SWAY

from holdfast.report.tables import Cell, flagged, headline_metrics, other_metrics, two_factor
from holdfast.select.table import Candidate, Table
from holdfast.select.wording import number


@pytest.fixture(scope="module")
def report():
    return made_report()


def table_of(report, name="baseline"):
    return two_factor(report.study, Table(report.rows), Candidate(name), ERROR)


def test_two_factors_in_the_order_of_the_study(report):
    table = table_of(report)
    assert [name for name, _ in table.lines] == ["train", "vehicle"]
    assert [c.subject for c in table.columns] == list(report.study.subjects)
    assert [c.executed for c in table.columns] == ["fp32", "fp16 (emulated)", "int8"]
    assert not any(c.differs for c in table.columns)
    assert (table.unit, table.seeds, table.samples, table.groups) == ("m", 5, 120, 30)


def test_cells_are_means_over_seeds_with_a_ratio_to_the_first(report):
    (_, clean), (_, vehicle) = table_of(report).lines
    values = [r.value for r in report.rows if (r.recipe, r.preprocessing, r.subject, r.split, r.metric, r.probe) ==
              ("baseline", "vehicle", "eager:fp32", "report", ERROR, "deployment")]  # fmt: skip
    assert vehicle[0].text == number(sum(values) / 5)
    assert clean[0].factor == "×1.00"
    assert vehicle[0].ratio == pytest.approx(1.5, rel=0.05)
    assert clean[0].worse == 0
    assert 0.4 < vehicle[0].worse < 0.8
    assert vehicle[2].flags == ("transferred",)


def test_what_was_asked_for_but_not_executed_shows_in_the_column():
    report = made_report()
    rows = [r if r.precision != "fp16" else type(r)(**{**vars(r), "executed": "fp32"}) for r in report.rows]
    columns = two_factor(report.study, Table(rows), Candidate("baseline"), ERROR).columns
    assert [c.differs for c in columns] == [False, True, False]


def test_no_rows_no_table(report):
    assert two_factor(report.study, Table(report.rows), Candidate("baseline"), "nothing") is None
    assert two_factor(report.study, Table([]), Candidate("baseline"), ERROR) is None


@pytest.mark.parametrize(
    ("values", "detail"),
    [((), ""), ((1.0,), ""), ((1.0, 1.5), "1.00, 1.50"), ((1.0, 1.1, 1.2), "0.852–1.35"),
     ((0.0, 1.0, -1.0), "−2.48 to 2.48")],
)  # fmt: skip
def test_details_say_as_much_as_the_seeds_allow(values, detail):
    assert Cell(values=values).detail == detail


def test_more_is_better_turns_the_colour():
    report = made_report()
    rows = [type(r)(**{**vars(r), "better": "higher"}) for r in report.rows]
    (_, _), (_, vehicle) = two_factor(report.study, Table(rows), Candidate("baseline"), ERROR).lines
    assert vehicle[0].worse < 0


def test_headline_metrics_start_with_the_primary_one(report):
    assert headline_metrics(report) == [ERROR, SWAY]


def test_other_metrics_carry_units_and_every_candidate(report):
    found = other_metrics(report, Table(report.rows))
    assert "displacement_42m [m]" in found
    assert set(found["displacement_42m [m]"]) == set(report.candidates)


def test_flags_are_counted_where_they_occur(report):
    (places,) = flagged(report).values()
    assert places[0].startswith("deployment on onnxruntime:int8 (")
