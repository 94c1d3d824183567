from __future__ import annotations

import pytest

from holdfast.core.contracts import PrecisionPlan
from holdfast.core.errors import BackendError
from holdfast.deploy.plans import executed, require


@pytest.mark.parametrize(
    ("requested", "nodes", "said"),
    [
        ("int8", ["int8", "int8"], "int8"),
        ("int8", ["int8", "fp32", "int8"], "int8 (2 of 3 matrix nodes)"),
        ("fp16", ["bf16", "bf16", "fp32"], "bf16"),
        ("fp16", [], "fp32"),
    ],
)
def test_what_executed_in_words(requested: str, nodes: list[str], said: str) -> None:
    assert executed(requested, nodes) == said


def test_plans_that_would_be_ignored_are_refused() -> None:
    plan = PrecisionPlan(default="int8", nodes={"conv": "fp32"})
    require(plan, ("int8",), where="x", exceptions=("fp32",))
    with pytest.raises(BackendError, match=r"no precision 'int8' \(one of fp16, fp32\)"):
        require(plan, ("fp16", "fp32"), where="x")
    with pytest.raises(BackendError, match="all nodes run in one precision"):
        require(plan, ("int8",), where="x")
    with pytest.raises(BackendError, match=r"no precision fp32 .*run in fp16"):
        require(plan, ("int8",), where="x", exceptions=("fp16",))
