from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from holdfast.core import catalogue
from holdfast.core.contracts import Attack
from holdfast.core.discover import build, describe, load, load_task, names, plugin_module, task_roots
from holdfast.core.errors import InputError
from holdfast.core.options import call

# --- plug-ins -------------------------------------------------------------------------------------------


def test_plug_ins_are_files_that_define_their_own_name_and_keep_the_contract() -> None:
    assert {"fgsm", "pgd"} <= set(names("attack"))
    assert "seal" not in names("attack")
    assert "bench" not in names("probe"), "it defines Bench, which is no probe"
    assert load("attack", "fgsm").__name__ == "FGSM"
    assert plugin_module("average", "ema") == "holdfast.weights.ema"
    fgsm = next(plug_in for plug_in in describe("attack") if plug_in.name == "fgsm")
    assert fgsm.summary.startswith("FGSM:")


@pytest.mark.parametrize(
    ("kind", "spec", "message"),
    [
        ("attack", "fgssm", r"no attack 'fgssm' \(did you mean 'fgsm'\?\)"),
        ("attack", "seal", r"seal.py: is no attack \(it has to define a class of the file's name with craft\)"),
        ("probe", "bench", r"with needs and run\)"),
        ("task", "ingredients", r"is no task \(it has to define a function"),
        ("attack", {"fgsm": {"epz": 1}}, r"attack 'fgsm': unknown option 'epz' \(did you mean 'eps'\?\)"),
        ("attack", {"pgd": {"steps": "many"}}, r"attack 'pgd', option 'steps': .*valid integer.*got 'many'"),
        ("attack", {"fgsm": {"norm": "l3"}}, r"option 'norm': .*'linf' or 'l2'"),
        ("attack", {"fgsm": {}, "pgd": {}}, r"one name with its options"),
        ("attack", {"fgsm": [3]}, r"options must be a mapping, got \[3\]"),
        ("average", {"ema": {"decay": 2}}, r"decay 2.0 is outside \[0, 1\)"),
        ("method", {"adversarial": {"attack": {"pgd": {"stepz": 3}}}}, r"attack 'pgd': unknown option 'stepz'"),
    ],
)
def test_what_is_wrong_is_named_with_the_nearest_valid(kind: str, spec: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(kind, spec)


def test_options_are_converted_to_the_declared_type() -> None:
    assert build("attack", {"fgsm": {"eps": "1e-1"}}).eps == 0.1
    assert build("attack", "fgsm") == build("attack", {"fgsm": None}) == build("attack", {"fgsm": {}})


def test_a_plug_in_within_a_plug_in_is_built_too() -> None:
    method = build("method", {"adversarial": {"attack": {"pgd": {"steps": 3}}}})
    assert type(method.attack).__name__ == "PGD"
    assert method.attack.steps == 3
    already = build("attack", "fgsm")
    assert build("method", {"adversarial": {"attack": already}}).attack is already


def several(attacks: tuple[Attack, ...], spare: Attack | None = None, *, near: NotImported = 3) -> Any:  # type: ignore[name-defined]  # noqa: F821  # as a type-checking import
    return attacks, spare, near


def test_lists_of_plug_ins_and_unknown_types() -> None:
    attacks, spare, near = call(
        several, {"attacks": ["fgsm", {"pgd": {}}], "spare": None, "near": "x"}, where="here", build=build
    )
    assert [type(attack).__name__ for attack in attacks] == ["FGSM", "PGD"]
    assert (spare, near) == (None, "x")
    with pytest.raises(InputError, match="here: option 'attacks' is missing"):
        call(several, {}, where="here", build=build)


def test_plug_ins_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    outside = SimpleNamespace(name="thunder", module="json", attr="JSONDecoder", dist=SimpleNamespace(name="storm"))
    shadow = SimpleNamespace(name="fgsm", module="json", attr="JSONDecoder", dist=None)
    points = SimpleNamespace(select=lambda group: [outside, shadow] if group == "holdfast.attack" else [])
    monkeypatch.setattr(catalogue, "_entry_points", lambda: points)
    assert "thunder" in names("attack")
    assert "thunder" not in names("method")
    assert load("attack", "thunder").__name__ == "JSONDecoder"
    assert load("attack", "fgsm").__name__ == "FGSM"
    assert next(p.summary for p in describe("attack") if p.name == "thunder") == "from the package storm"


# --- tasks ----------------------------------------------------------------------------------------------

TASK_FILE = """
from holdfast import InputSpace, Leaf, Metric, Task
from sibling_of_task import SIZE

class Data:
    def __init__(self, n): self.n = n

def make(n: int = SIZE) -> Task:
    return Task(name="mine", build_model=None, data=lambda split: Data(n), loss=None, metrics=(), space=InputSpace({}))

ready = make()
number = 3
"""


@pytest.fixture
def task_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_task.py").write_text(TASK_FILE)
    (tmp_path / "sibling_of_task.py").write_text("SIZE = 7\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "sibling_of_task", raising=False)
    monkeypatch.delitem(sys.modules, "my_task", raising=False)
    return tmp_path


def test_a_task_of_a_file_a_module_and_by_name(task_folder: Path) -> None:
    assert load_task("my_task.py:ready", base=task_folder).data("train").n == 7
    assert load_task("my_task.py:make", {"n": "5"}, base=task_folder).data("train").n == 5
    assert load_task("my_task:make", base=task_folder).name == "mine"
    assert load_task("lanes", base=task_folder).name == "lanes"


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("lane", {}, r"no task 'lane' \(did you mean 'lanes'\?\)"),
        ("my_task.py", {}, r"which task of the file\? \(write my_task.py:name\)"),
        ("absent.py:make", {}, r"absent.py: no such task file"),
        ("my_task.py:mak", {}, r"has no 'mak' \(did you mean 'make'\?\)"),
        ("my_task.py:number", {}, r"is of type int, not Task"),
        ("my_task.py:Data", {"n": 1}, r"is of type Data, not Task"),
        ("my_task.py:ready", {"n": 1}, r"takes no options, got \['n'\]"),
        ("my_task.py:make", {"m": 1}, r"unknown option 'm' \(one of: n\)"),
        ("no.such.module:make", {}, r"no module 'no'"),
        ("broken.py:make", {}, r"broken.py, line 2: ZeroDivisionError: division by zero"),
        ("syntax.py:make", {}, r"syntax.py: SyntaxError"),
        ("needs.py:make", {}, r"needs.py, line 1: ModuleNotFoundError: No module named 'not_here'"),
        ("needs:make", {}, r"needs: ModuleNotFoundError: No module named 'not_here'"),
    ],
)
def test_every_way_to_miss_a_task_is_explained(
    task_folder: Path, spec: str, options: Mapping[str, Any], message: str
) -> None:
    (task_folder / "broken.py").write_text("x = 0\ny = 1 / x\n")
    (task_folder / "syntax.py").write_text("def make(:\n")
    (task_folder / "needs.py").write_text("import not_here\n")
    with pytest.raises(InputError, match=message):
        load_task(spec, options, base=task_folder)


def test_another_process_can_unpickle_what_a_task_file_defines(task_folder: Path) -> None:
    data = load_task("my_task.py:make", base=task_folder).data("train")
    (task_folder / "data.pickle").write_bytes(pickle.dumps(data))
    code = (
        "import pickle, sys; from pathlib import Path; from holdfast.core.discover import load_task\n"
        "base = Path(sys.argv[1]); load_task('my_task.py:make', base=base)\n"
        "print(pickle.loads((base / 'data.pickle').read_bytes()).n)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(task_folder)], capture_output=True, text=True, check=True)
    assert done.stdout == "7\n"


def test_roots_of_a_task(task_folder: Path) -> None:
    assert task_roots("lanes", base=task_folder) == ["holdfast.tasks.lanes"]
    assert task_roots("my_task.py:make", base=task_folder) == [task_folder / "my_task.py"]
    assert task_roots("my_task:make", base=task_folder) == [task_folder / "my_task.py"]
