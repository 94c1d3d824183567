from __future__ import annotations

import pytest
from made_page import made_report

from holdfast.report.text import summary


def test_summary_holds_verdict_tables_gates_and_failures():
    text = summary(made_report())
    assert text.startswith("fgsm (ema) beats baseline on vehicle error")
    assert "baseline: lateral_error_42m [m], 5 seeds, 30 groups" in text
    assert "fp16 (emulated)" in text
    assert "PASS          at most 10 % (fgsm (ema))" in text
    assert "INCONCLUSIVE  undecided (fgsm (ema))" in text
    assert "FAILED fgsm seed 3: loss became NaN in step 12" in text


def test_columns_are_aligned():
    lines = summary(made_report(seeds=2, bare=True)).splitlines()
    start = lines.index("baseline: lateral_error_42m [m], 2 seeds, 30 groups")
    table = lines[start + 1 : start + 7]
    assert len({line.find("fp16") for line in table if "fp16" in line}) == 1
    column = table[0].index("emulated")
    assert all(line[column] != " " and line[column - 1] == " " for line in table)


def test_lines_of_prose_fit_a_terminal():
    assert max(map(len, summary(made_report()).splitlines())) <= 100


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_any_number_of_seeds(seeds):
    assert "seed" in summary(made_report(seeds))


def test_a_long_sweep_prints_the_first_tables_only():
    recipes = {name: {} for name in ("baseline", "jitter", "fgsm")} | {"fgsm": {"averages": {"ema": {}, "swa": {}}}}
    assert "1 more table in the report." in summary(made_report(bare=True, recipes=recipes))
