from __future__ import annotations

import re
from pathlib import Path

import yaml

from holdfast.core.discover import build, load, names

TEXT = (Path(__file__).parents[2] / "docs" / "corruptions.md").read_text(encoding="utf-8")


def test_the_table_holds_every_corruption_with_its_family_and_severities() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| 1 to (\d) \| (.+) \|$", TEXT, flags=re.MULTILINE)
    assert sorted(name for name, *_ in rows) == names("corruption")
    for name, family, last, words in rows:
        corruption = load("corruption", name)
        assert corruption.family == family
        assert corruption.severities == tuple(range(1, int(last) + 1))
        assert corruption.moves_pixels == ("moves pixels" in words)


def test_python_snippets_run() -> None:
    snippets = re.findall(r"^```python\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)
    assert snippets
    for snippet in snippets:
        exec(compile(snippet, "docs/corruptions.md", "exec"), {})


def test_probes_of_the_study_snippet_exist() -> None:
    for block in re.findall(r"^```yaml\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL):
        probes = yaml.safe_load(block)["probes"]
        assert all(build("probe", probe) is not None for probe in probes)
