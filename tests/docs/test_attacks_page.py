"""What the page on attacks shows runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from holdfast.core.discover import build, names

PAGE = (Path(__file__).parents[2] / "docs" / "attacks.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.M | re.S)


def test_the_code_runs() -> None:
    shown: dict[str, object] = {}
    for block in blocks("python"):
        exec(compile(block, "attacks.md", "exec"), shown)
    assert shown["broken"].any()


def test_the_probes_of_the_study_exist_with_these_options() -> None:
    [study] = blocks("yaml")
    assert [type(build("probe", probe)).__name__ for probe in yaml.safe_load(study)["probes"]] == [
        "RobustAccuracy", "BreakingStrength", "Adversarial",
    ]  # fmt: skip


def test_every_attack_is_on_the_page() -> None:
    missing = [name for name in names("attack") if f"`{name}`" not in PAGE]
    assert missing == ["power_iteration"], "it belongs to VAT"
