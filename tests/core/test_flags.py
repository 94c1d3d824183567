from __future__ import annotations

import ast
import re
from pathlib import Path

import holdfast
from holdfast.core.flags import MEANING, VOIDING

ROOT = Path(__file__).parents[2]
SOURCES = sorted(Path(holdfast.__file__).parent.rglob("*.py"))


def documented():
    """Flag -> (voids a pass, first paragraph) in docs/flags.md."""
    text = (ROOT / "docs" / "flags.md").read_text(encoding="utf-8")
    found = re.findall(r"^## `(\w+)`( \(voids a pass\))?\n\n(.+?)\n\n", text, flags=re.MULTILINE | re.DOTALL)
    return {flag: (bool(voids), " ".join(meaning.split())) for flag, voids, meaning in found}


def raised():
    """Flags that the source puts on rows: literals of ``flags`` and ``doubts``, and what probes yield as flags."""
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if any(isinstance(t, ast.Name) and t.id in {"flags", "doubts", "transferred"} for t in targets):
                    found |= _strings(node.value)
    return found


def _strings(node):
    tuples = [n for n in ast.walk(node) if isinstance(n, ast.Tuple)]
    return {e.value for t in tuples for e in t.elts if isinstance(e, ast.Constant) and isinstance(e.value, str)}


def test_documentation_says_what_the_source_says():
    assert {flag: meaning for flag, (_, meaning) in documented().items()} == dict(MEANING)


def test_voiding_flags_are_marked():
    assert {flag for flag, (voids, _) in documented().items() if voids} == VOIDING
    assert set(MEANING) >= VOIDING


def test_every_flag_that_a_probe_raises_has_a_meaning():
    assert raised() <= set(MEANING)
    assert {"gradient_masking", "undefined_samples"} <= raised()
