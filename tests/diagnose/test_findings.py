from __future__ import annotations

import pytest

from holdfast.core.rows import Row
from holdfast.diagnose.findings import Finding, carriers


def pixels(cause: str, share: float, pipeline: str = "vehicle") -> Row:
    """A row of the probe that looks at the pixels of two pipelines."""
    return Row(
        study="diagnose", recipe="subject", init_seed=0, order_seed=0, weights="last", preprocessing=pipeline,
        backend="eager", precision="fp32", executed="fp32", probe="input_drift", condition=f"cause={cause}",
        split="report", metric="share_of_difference", unit="1", better="neither", value=share, n=6, groups=6,
    )  # fmt: skip


def finding(kind: str, name: str) -> Finding:
    return Finding(
        kind=kind, name=name, probe="deployment", condition="", subject="eager:fp32", preprocessing="vehicle",
        metric="accuracy", unit="1", baseline=0.9, value=0.5, damage=0.4, tolerance=0.05,
    )  # fmt: skip


@pytest.mark.parametrize(("kind", "name"), [("pipeline", "vehicle"), ("both", "onnxruntime:int8 under vehicle")])
def test_causes_in_the_pixels_are_named_by_their_share_and_not_where_they_explain_nothing(kind: str, name: str) -> None:
    rows = [pixels("divisor divided_by_256", -0.003), pixels("range limited", 0.009), pixels("matrix BT.709", 0.2),
            pixels("kernel area", 0.7), pixels("gamma", 0.9, pipeline="other")]  # fmt: skip
    said = carriers(finding(kind, name), [], rows)
    assert said == ("kernel area (70% of the pixels' difference)", "matrix BT.709 (20% of the pixels' difference)")
