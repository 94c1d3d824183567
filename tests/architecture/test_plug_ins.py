from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from source import ROOT

from holdfast.core.catalogue import KINDS, PlugIn, describe
from holdfast.core.discover import load

FOUND = [plug_in for kind in KINDS for plug_in in describe(kind)]
OBJECTS = [p for p in FOUND if KINDS[p.kind].contract]


def named(plug_in: PlugIn) -> str:
    return f"{plug_in.kind}-{plug_in.name}"


@pytest.mark.parametrize("plug_in", FOUND, ids=named)
def test_every_plug_in_says_in_one_line_what_it_is(plug_in: PlugIn) -> None:
    assert re.fullmatch(r"\S.{10,}[.?]", plug_in.summary)


@pytest.mark.parametrize("plug_in", OBJECTS, ids=named)
def test_hyper_parameters_are_frozen_named_and_have_defaults(plug_in: PlugIn) -> None:
    kind = load(plug_in.kind, plug_in.name)
    assert dataclasses.is_dataclass(kind)
    assert kind.__dataclass_params__.frozen
    parameters = inspect.signature(kind).parameters.values()
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters)
    assert all(parameter.default is not parameter.empty for parameter in parameters)


# --- one new file ---------------------------------------------------------------------------------------

STUBS = {
    kind: f'"""A stub of the kind {kind}."""\n\n\n'
    + (
        "class DummyPlugIn:\n" + "".join(f"    def {name}(self): ...\n" for name in sorted(KINDS[kind].contract[0]))
        if KINDS[kind].contract
        else "def dummy_plug_in(): ...\n"
    )
    for kind in KINDS
}


def run_in(tree: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(tree / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=tree, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what a method needs: the source, its tests, the cards."""
    for part in ("src", "tests/conformance", "tests/methods", "tests/reference", "docs/methods"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_one_new_file_of_each_kind_is_all_it_takes(tree: Path) -> None:
    for kind, text in STUBS.items():
        folder = tree / "src" / Path(*KINDS[kind].package.split("."))
        (folder / "dummy_plug_in.py").write_text(text)
    done = run_in(tree, "-m", "holdfast", "list", "--json")
    assert done.returncode == 0, done.stderr
    listed = [record for record in json.loads(done.stdout) if record["name"] == "dummy_plug_in"]
    assert [record["kind"] for record in listed] == [kind for kind in KINDS if kind != "command"]
    assert all(str(tree) in record["path"] and "stub of the kind" in record["summary"] for record in listed)
    assert run_in(tree, "-m", "holdfast", "dummy-plug-in").returncode == 0


def test_a_plug_in_that_does_not_parse_is_named(tree: Path) -> None:
    (tree / "src/holdfast/attacks/broken.py").write_text("class Broken:\n    def craft(self:\n")
    assert run_in(tree, "-m", "holdfast", "list").returncode == 0  # a list reads no further than it must
    use = "from holdfast.core.discover import load; load('attack', 'broken')"
    assert "broken.py, line 2: '(' was never closed" in run_in(tree, "-c", use).stderr


def test_the_method_of_the_contributing_guide_works_as_it_stands(tree: Path) -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    method, test = re.findall(r"^```python\n(.*?)^```$", guide.split("````")[0], flags=re.DOTALL | re.MULTILINE)
    card = guide.split("````markdown\n")[1].split("````")[0]
    (tree / "src/holdfast/methods/brightness.py").write_text(method)
    (tree / "tests/methods/test_brightness.py").write_text(test)
    (tree / "docs/methods/brightness.md").write_text(card)

    built = "from holdfast.core.discover import build; print(build('method', {'brightness': {'strength': 0.1}}))"
    assert run_in(tree, "-c", built).stdout == "Brightness(strength=0.1, on=('clean',))\n"
    done = run_in(
        tree, "-m", "pytest", "-p", "no:cacheprovider", "tests/methods/test_brightness.py",
        "tests/conformance/test_methods.py", "-k", "brightness",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) >= 6
