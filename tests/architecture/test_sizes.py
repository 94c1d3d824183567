from __future__ import annotations

import ast

from source import docstring_lines, label, source_files, tree

FILE_LINES = 250
FUNCTION_LINES = 50

EXCEPTIONS = {
    "src/holdfast/core/contracts.py": "all contracts on one page, most of it signatures",
}
"""Files and functions above the ceiling, each with its reason."""


def test_files_are_small() -> None:
    """Docstrings are not counted: what a reader is told is no burden."""
    lengths = {label(path): path.read_text().count("\n") - docstring_lines(tree(path)) for path in source_files()}
    assert {name: n for name, n in lengths.items() if n > FILE_LINES and name not in EXCEPTIONS} == {}


def test_functions_are_small() -> None:
    lengths = {
        f"{label(path)}:{node.name}": (node.end_lineno or node.lineno) - node.lineno + 1 - docstring_lines(node)
        for path in source_files()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: n for name, n in lengths.items() if n > FUNCTION_LINES and name not in EXCEPTIONS} == {}
    assert set(EXCEPTIONS) <= {*lengths, *(label(path) for path in source_files())}, "an exception names nothing"
