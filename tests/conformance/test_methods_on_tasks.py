"""Every method on every task: it trains, or says why not; and the table in the documentation says the same."""

from __future__ import annotations

from pathlib import Path

import methods_on_tasks
import pytest
import torch
from found_methods import ALL
from methods_on_tasks import COLUMNS, page, tried

PAGE = Path(__file__).parents[2] / "docs" / "methods" / "README.md"


@pytest.mark.parametrize("name", ALL)
def test_a_refusal_comes_from_holdfast_and_nothing_else_is_raised(name):
    said = [tried(name, column) for column in COLUMNS]
    assert all(reason for word, reason in said if word == "no")
    assert "yes" in [word for word, _ in said]


def test_the_page_is_up_to_date():
    torch.manual_seed(0)
    shown = PAGE.read_text(encoding="utf-8")
    assert shown == page(), f"run: python {Path(methods_on_tasks.__file__).name} > docs/methods/README.md"
