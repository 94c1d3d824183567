"""The source tree as the tests of this folder see it: files, their imports, the order of packages in the design."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "holdfast"


def source_files() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def label(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def package_of(path: Path) -> str:
    """The package in which a file stands, e.g. ``deploy`` for ``deploy/backends/eager.py``; empty at the top."""
    return path.relative_to(SOURCE).parts[0] if path.parent != SOURCE else ""


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")


def imported_modules(path: Path) -> Iterator[str]:
    """Modules of holdfast that a file imports anywhere in it, also for the type checker."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("holdfast."))
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{label(path)}: relative import"
            if node.module == "holdfast":
                yield from (f"holdfast.{alias.name}" for alias in node.names)
            elif (node.module or "").startswith("holdfast."):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                modules = [name for name in names if is_module(name)]
                yield from modules or [str(node.module)]


def is_module(name: str) -> bool:
    target = SOURCE.parent.joinpath(*name.split("."))
    return target.with_suffix(".py").is_file() or (target / "__init__.py").is_file()


def designed_order() -> list[str]:
    """Packages in the order of the layout in ``docs/design.md``, top first."""
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    block = text.split("## Layout and import direction")[1].split("```")[1]
    return [name for line in block.splitlines() for name in re.findall(r"(?:^|\s{3})([a-z_]+)(?=\s{2})", line)]


def docstring_lines(node: ast.AST) -> int:
    """Lines of the docstrings of a module, class or function and of everything in it."""
    found = 0
    for inner in ast.walk(node):
        if isinstance(inner, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = inner.body[0] if inner.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                found += (first.end_lineno or first.lineno) - first.lineno + 1
    return found
