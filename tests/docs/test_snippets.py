"""What the README and the examples show runs as it stands."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import holdfast
from holdfast.core.config import load_study
from holdfast.core.discover import build
from holdfast.study.run import run_study
from holdfast.weights.files import load

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
STUDIES = sorted(Path(holdfast.__file__).parent.glob("studies/*.yaml")) + sorted(ROOT.glob("benchmarks/*/study.yaml"))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def test_the_readme_has_snippets() -> None:
    assert blocks(ROOT / "README.md", "python")
    assert EXAMPLES


def test_readme_snippets_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks(ROOT / "README.md", "python"):
        exec(compile(block, "README.md", "exec"), names)
    assert load(tmp_path / "averaged.pt")[0].keys() == names["model"].state_dict().keys()


def test_snippets_about_weights_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks(ROOT / "docs" / "weights.md", "python"):
        exec(compile(block, "weights.md", "exec"), names)
    assert load(tmp_path / "ema.safetensors")[1]["average"] == "ema"


def test_the_task_and_the_study_of_the_guide_run_to_a_report(tmp_path: Path) -> None:
    page = ROOT / "docs" / "your_task.md"
    (tmp_path / "halves_task.py").write_text(blocks(page, "python")[0], encoding="utf-8")
    (tmp_path / "halves.yaml").write_text(blocks(page, "yaml")[0], encoding="utf-8")
    study = load_study(tmp_path / "halves.yaml").model_copy(update={"init_seeds": (0,), "order_seeds": (0,)})
    outcome = run_study(study, base=tmp_path, out=tmp_path / "run", workers=1, quiet=True)
    assert "the target decides alike" in outcome.table
    assert outcome.report.is_file()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_examples_run(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out


def test_readme_commands_exist() -> None:
    found = re.findall(r"`holdfast ([a-z-]+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    help_ = subprocess.run([sys.executable, "-m", "holdfast", "--help"], capture_output=True, text=True, check=True)
    assert found
    for command in found:
        assert command in help_.stdout, command


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))],
                         ids=lambda p: p.name)  # fmt: skip
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_shipped_studies_are_valid_and_their_plug_ins_exist(path: Path) -> None:
    study = load_study(path)
    for probe in study.probes:
        build("probe", probe)
    for recipe in study.recipes.values():
        for kind, specs in (("method", recipe.methods), ("surgery", recipe.surgery)):
            for spec in specs:
                build(kind, spec)
        for name, options in recipe.averages.items():
            build("average", {name: options})
    for subject in study.subjects:
        backend = build("backend", subject.split(":")[0])
        assert subject.split(":")[1] in backend.precisions
