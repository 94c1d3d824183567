from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.core.config import Training
from holdfast.core.fingerprint import config_hash, environment, source_closure, source_hash
from holdfast.core.plain import plain

# --- configuration --------------------------------------------------------------------------------------

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
nests = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


@settings(max_examples=50)
@given(nests)
def test_everything_from_yaml_has_a_hash_that_its_order_does_not_change(value: object) -> None:
    def reversed_keys(node: object) -> object:
        if isinstance(node, dict):
            return {key: reversed_keys(node[key]) for key in reversed(node)}
        return [reversed_keys(item) for item in node] if isinstance(node, list) else node

    assert config_hash(value) == config_hash(reversed_keys(value))


@dataclass(frozen=True)
class Point:
    x: float
    at: Path = Path("there")


def test_plain_values() -> None:
    assert plain({"a": (1, np.float32(0.5)), "b": {3, 1}, "c": np.arange(2), "d": Point(float("nan"))}) == {
        "a": [1, 0.5], "b": [1, 3], "c": [0, 1], "d": {"x": "nan", "at": "there"},
    }  # fmt: skip
    assert plain(Training())["epochs"] == 6
    with pytest.raises(TypeError, match="object has no JSON form"):
        config_hash([object()])


@pytest.mark.parametrize("other", [{"a": 2}, {"b": 1}, {"a": "1"}, {"a": [1]}, {"a": 1.5}, {"a": None}])
def test_different_settings_have_different_hashes(other: object) -> None:
    assert config_hash(other) != config_hash({"a": 1})


# --- source ---------------------------------------------------------------------------------------------


@pytest.fixture
def user(tmp_path: Path) -> Path:
    files = {
        "task.py": "import numpy, helper\nfrom parts.inner import thing\nimport holdfast as hf\nhf.FGSM\n"
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import unseen\n",
        "helper.py": "import task  # a circle\n",
        "unseen.py": "",
        "unrelated.py": "",
        "parts/__init__.py": "",
        "parts/inner.py": "from . import deep\nfrom .. import nowhere\n",
        "parts/deep.py": "from holdfast.core.space import Leaf\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def labels(root: str | Path) -> set[str]:
    return set(source_closure([root]).values())


def test_the_closure_follows_imports_and_nothing_else(user: Path) -> None:
    found = labels(user / "task.py")
    assert {label for label in found if not label.startswith("holdfast/")} == {
        "task.py", "helper.py", "parts/__init__.py", "parts/inner.py", "parts/deep.py",
    }  # fmt: skip
    assert {"holdfast/attacks/fgsm.py", "holdfast/attacks/seal.py", "holdfast/core/space.py"} <= found
    assert "holdfast/attacks/pgd.py" not in found
    assert "holdfast/__init__.py" not in found


def test_the_hash_sees_contents_not_places(user: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    before = source_hash([user / "task.py"])
    (user / "unrelated.py").write_text("changed = 1\n")
    assert source_hash([user / "task.py"]) == before
    moved = tmp_path_factory.mktemp("elsewhere") / "folder"
    user.rename(moved)
    assert source_hash([moved / "task.py"]) == before
    (moved / "parts" / "deep.py").write_text("from holdfast.core.space import Leaf, InputSpace\n")
    assert source_hash([moved / "task.py"]) != before


def test_modules_of_holdfast_know_what_they_use() -> None:
    found = labels("holdfast.methods.adversarial")
    assert {"holdfast/methods/adversarial.py", "holdfast/attacks/seal.py", "holdfast/core/contracts.py"} <= found
    assert not any(label.startswith(("holdfast/cli", "holdfast/report", "holdfast/train")) for label in found)
    assert source_hash(["holdfast.attacks.fgsm"]) != source_hash(["holdfast.attacks.pgd"])


# --- environment ----------------------------------------------------------------------------------------


def test_the_environment_is_complete_and_needs_no_torch() -> None:
    code = "import sys; from holdfast.core.fingerprint import environment; environment(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
    found = environment()
    expected = {"holdfast", "commit", "dirty", "python", "torch", "numpy", "onnx", "onnxruntime", "cpu", "cores"}
    assert expected | {"threads", "platform", "time"} == set(found)
    assert found["cores"] >= 1
    assert plain(found) == found
