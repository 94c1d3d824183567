"""What plug-ins there are, found by parsing files and reading package metadata: nothing is imported."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TypeGuard

from holdfast.core.errors import InputError, nearest

__all__ = ["KINDS", "Kind", "PlugIn", "describe", "find", "names"]


@dataclass(frozen=True)
class Kind:
    """Where the plug-ins of a kind stand, and what tells them from the other files of the folder.

    Args:
        package: the package in whose folder they stand.
        contract: names of which the class must define all of one set; empty: a function will do.
    """

    package: str
    contract: tuple[frozenset[str], ...] = ()


def _class_with(*alternatives: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(names.split()) for names in alternatives)


KINDS = {
    "task": Kind("holdfast.tasks"),
    "method": Kind("holdfast.methods", _class_with("rewrite", "delta")),
    "surgery": Kind("holdfast.surgery", _class_with("apply")),
    "average": Kind("holdfast.weights", _class_with("start")),
    "attack": Kind("holdfast.attacks", _class_with("craft")),
    "probe": Kind("holdfast.probes", _class_with("needs run")),
    "backend": Kind("holdfast.deploy.backends", _class_with("prepare")),
    "cause": Kind("holdfast.explain_drift.causes", _class_with("apply undo propose")),
    "integration": Kind("holdfast.integrations"),
    "command": Kind("holdfast.cli"),
}
"""Packages of other authors add plug-ins as entry points of the group ``holdfast.<kind>``."""


@dataclass(frozen=True, kw_only=True)
class PlugIn:
    """Where a plug-in stands; finding it imported nothing.

    Args:
        name: as it stands in study files.
        kind: a key of `KINDS`.
        summary: first line of its docstring.
        module: the module to import.
        attribute: the class or function in it.
        path: its file, None when only its package knows.
    """

    name: str
    kind: str
    summary: str
    module: str
    attribute: str
    path: Path | None


def describe(kind: str) -> list[PlugIn]:
    """All plug-ins of a kind by name, those of other packages included; a built-in one wins over its namesake."""
    found = {plug_in.name: plug_in for plug_in in (*_outside(kind), *_inside(kind))}
    return [found[name] for name in sorted(found)]


def names(kind: str) -> list[str]:
    """Names of all plug-ins of a kind."""
    return [plug_in.name for plug_in in describe(kind)]


def find(kind: str, name: str) -> PlugIn:
    """The plug-in of a name.

    Raises:
        InputError: there is none; names the nearest, or says what a file of the name lacks.
    """
    found = {plug_in.name: plug_in for plug_in in describe(kind)}
    if name in found:
        return found[name]
    for path in _files(kind):
        if path.stem == name:
            needed = " or ".join(" and ".join(sorted(names)) for names in KINDS[kind].contract)
            what = f"a class of the file's name with {needed}" if needed else "a function of the file's name"
            raise InputError(f"is no {kind}", where=str(path), fix=f"it has to define {what}")
    raise InputError(f"no {kind} {name!r}", fix=nearest(name, found))


def _files(kind: str) -> list[Path]:
    found = find_spec(KINDS[kind].package)
    folders = (found.submodule_search_locations if found else None) or []
    return sorted(path for folder in folders for path in Path(folder).glob("[a-z]*.py"))


def _inside(kind: str) -> Iterator[PlugIn]:
    for path in _files(kind):
        if definition := _definition(path, path.stat().st_mtime_ns, KINDS[kind].contract):
            attribute, summary = definition
            yield PlugIn(name=path.stem, kind=kind, summary=summary, module=f"{KINDS[kind].package}.{path.stem}",
                         attribute=attribute, path=path)  # fmt: skip


_DEFINED = re.compile(rb"^(?:class|def)\s+(\w+)", re.MULTILINE)


@cache
def _definition(path: Path, changed: int, contract: tuple[frozenset[str], ...]) -> tuple[str, str] | None:
    """Name and summary of what makes a file a plug-in; ``changed`` keeps an edited file from being remembered."""
    source = path.read_bytes()
    if not any(_same(name.decode(), path.stem) for name in _DEFINED.findall(source)):
        return None  # parsing is what takes time
    try:
        tree = ast.parse(source, filename=str(path))
    except SyntaxError as error:
        raise InputError(str(error.msg), where=f"{path}, line {error.lineno}") from None
    for node in tree.body:
        if _bears_name(node, path.stem) and _fulfils(node, contract):
            text = ast.get_docstring(tree) or ast.get_docstring(node) or ""
            return node.name, text.partition("\n")[0]
    return None


def _bears_name(node: ast.stmt, stem: str) -> TypeGuard[ast.ClassDef | ast.FunctionDef]:
    return isinstance(node, ast.ClassDef | ast.FunctionDef) and _same(node.name, stem)


def _same(name: str, stem: str) -> bool:
    return not name.startswith("_") and name.replace("_", "").lower() == stem.replace("_", "").lower()


def _fulfils(node: ast.ClassDef | ast.FunctionDef, contract: tuple[frozenset[str], ...]) -> bool:
    methods = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
    fields = {ast.unparse(item.target) for item in node.body if isinstance(item, ast.AnnAssign)}
    return not contract or (isinstance(node, ast.ClassDef) and any(names <= methods | fields for names in contract))


def _outside(kind: str) -> Iterator[PlugIn]:
    for point in entry_points(group=f"holdfast.{kind}"):
        yield PlugIn(
            name=point.name, kind=kind, summary=f"from the package {point.dist.name if point.dist else '?'}",
            module=point.module, attribute=point.attr, path=None,
        )  # fmt: skip
