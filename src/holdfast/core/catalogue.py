"""What plug-ins there are, found by searching files and reading package metadata: nothing is imported."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

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
    "corruption": Kind("holdfast.data.corruptions", _class_with("family corrupt")),
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


_DOCSTRING = r"""[rRuU]?(\"{3}|'{3}|\"|')[ \t]*(?P<summary>.*?)[ \t]*(?:\1|\n)"""
_OF_FILE = re.compile(r"\A(?:\s*#.*\n|\s*\n)*" + _DOCSTRING)
_OF_DEFINITION = re.compile(r"^    " + _DOCSTRING, re.MULTILINE)
_DEFINITION = re.compile(
    r"^(?P<what>class|def)\s+(?P<name>\w+)(?P<body>.*?)(?=^[^\s)\]}#]|\Z)", re.MULTILINE | re.DOTALL
)
_MEMBER = re.compile(r"^    (?:def\s+)?(\w+)\s*[(:]", re.MULTILINE)


@cache
def _definition(path: Path, changed: int, contract: tuple[frozenset[str], ...]) -> tuple[str, str] | None:
    """Name and summary of what makes a file a plug-in; ``changed`` keeps an edited file from being remembered.

    The source is searched, not parsed: parsing a hundred files takes ten times as long, and a list should not.
    """
    source = path.read_text(encoding="utf-8")
    for found in _DEFINITION.finditer(source):
        if _same(found["name"], path.stem) and _fulfils(found, contract):
            text = _OF_FILE.match(source) or _OF_DEFINITION.search(found["body"])
            return found["name"], text["summary"] if text else ""
    return None


def _same(name: str, stem: str) -> bool:
    return not name.startswith("_") and name.replace("_", "").lower() == stem.replace("_", "").lower()


def _fulfils(found: re.Match[str], contract: tuple[frozenset[str], ...]) -> bool:
    members = set(_MEMBER.findall(found["body"]))
    return not contract or (found["what"] == "class" and any(names <= members for names in contract))


@cache
def _entry_points() -> Any:
    return entry_points()  # reads the metadata of every installed package


def _outside(kind: str) -> Iterator[PlugIn]:
    for point in _entry_points().select(group=f"holdfast.{kind}"):
        yield PlugIn(
            name=point.name, kind=kind, summary=f"from the package {point.dist.name if point.dist else '?'}",
            module=point.module, attribute=point.attr, path=None,
        )  # fmt: skip
