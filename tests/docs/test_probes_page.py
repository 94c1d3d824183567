"""The page on probes: its snippets run, its study block builds, and it names probes that exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from holdfast.core.discover import build, names

PAGE = Path(__file__).parents[2] / "docs" / "probes.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.M | re.S)


@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
def test_the_snippets_run_one_after_the_other() -> None:
    torch.manual_seed(0)
    found: dict[str, Any] = {}
    for block in blocks("python"):
        exec(compile(block, "probes.md", "exec"), found)
    assert found["critical"]
    assert found["kept"][0]["0.weight"].shape == (32, 8)
    assert found["path"].divergence_layer() in {"0", "2"}


def test_the_study_block_builds_and_the_table_names_probes_that_exist() -> None:
    (block,) = blocks("yaml")
    assert all(build("probe", spec) is not None for spec in yaml.safe_load(block)["probes"])
    named = set(re.findall(r"^\| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), flags=re.M))
    assert named <= set(names("probe"))
    assert {"criticality", "datapath", "laziness", "flatness", "calibration", "stability"} <= named
