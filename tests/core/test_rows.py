from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.errors import InputError
from holdfast.core.rows import Row

texts = ("study", "recipe", "weights", "preprocessing", "backend", "precision", "executed", "probe", "condition",
         "split", "metric", "unit", "better", "samples", "cell", "provenance")  # fmt: skip
rows = st.builds(
    Row,
    **{name: st.text(max_size=5) for name in texts},
    **dict.fromkeys(("init_seed", "order_seed", "n", "groups"), st.integers(0, 100)),
    value=st.floats(),
    flags=st.lists(st.text(max_size=3), max_size=2).map(tuple),
)


@given(rows)
def test_a_row_survives_json(row: Row) -> None:
    record = json.loads(json.dumps(row.to_json(), allow_nan=False))
    assert repr(Row.from_json(record)) == repr(row)  # by text: NaN equals nothing


@given(rows)
def test_the_subject_is_written_as_in_a_study(row: Row) -> None:
    assert row.subject == f"{row.backend}:{row.precision}"


@pytest.mark.parametrize("change", [{"extra": 1}, {"metric": None}])
def test_rows_of_another_version_are_refused(change: dict[str, Any]) -> None:
    record = {**{name: "" for name in texts}, "init_seed": 0, "order_seed": 0, "n": 1, "groups": 1, "value": 0.5,
              "flags": [], **change}  # fmt: skip
    if change == {"metric": None}:
        del record["metric"]
    with pytest.raises(InputError, match=r"fields \['(extra|metric)'\] missing or unknown"):
        Row.from_json(record)
