"""Hashes of everything that influences a result: configuration, the source that is used, the environment."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import holdfast
from holdfast.core.plain import plain

__all__ = ["config_hash", "environment", "file_hash", "source_closure", "source_hash"]

_PACKAGE = Path(holdfast.__file__).parent


def config_hash(value: Any) -> str:
    """SHA-256, 16 hex digits, of ``value`` as canonical JSON: the order of keys does not matter.

    Raises:
        TypeError: ``value`` holds something without a JSON form, whose text might differ from run to run.
    """
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """SHA-256, 16 hex digits, of a file's contents."""
    return _digest(path, _stamp(path))[:16]


# --- source ---------------------------------------------------------------------------------------------


def source_hash(roots: Iterable[str | Path]) -> str:
    """SHA-256, 16 hex digits, of the contents of `source_closure`; the commit and other files do not matter."""
    return config_hash(sorted((label, _digest(path, _stamp(path))) for path, label in source_closure(roots).items()))


def source_closure(roots: Iterable[str | Path]) -> dict[Path, str]:
    """The files that ``roots`` import, directly or not: of holdfast, and beside a user's own file.

    Imports for the type checker do not count, nor do other installed packages: their versions stand for them.

    Args:
        roots: names of modules, or files of a user.

    Returns:
        By path a label that stays the same when the folder is moved.
    """
    closure: dict[Path, str] = {}
    pending = [path for root in roots for path in _root_files(root)]
    while pending:
        path = pending.pop()
        if path in closure:
            continue
        top = _top(path)
        closure[path] = path.relative_to(top).as_posix()
        for name in _imports(path, _stamp(path)):
            pending += _imported_files(name, path, top)
    return closure


def _root_files(root: str | Path) -> list[Path]:
    if isinstance(root, Path):
        return [root.resolve()]
    if root.startswith("holdfast."):
        return _files(root, _PACKAGE.parent)
    found = find_spec(root)
    return [Path(found.origin).resolve()] if found and found.origin else []


def _top(path: Path) -> Path:
    """The folder to which the imports of a file are relative: the one above its outermost package."""
    folder = path.parent
    while (folder / "__init__.py").exists():
        folder = folder.parent
    return folder


def _imported_files(name: str, path: Path, top: Path) -> list[Path]:
    if name.startswith("."):
        rest = name.lstrip(".")
        return _files(rest, path.parents[len(name) - len(rest) - 1])
    head, _, rest = name.partition(".")
    if head == "holdfast":
        return _files(name, _PACKAGE.parent) or _files(holdfast.home_of(rest), _PACKAGE.parent)
    installed = {"site-packages", "dist-packages"} & set(top.parts)
    return [] if installed and head != path.relative_to(top).parts[0] else _files(name, top)


def _files(name: str, folder: Path) -> list[Path]:
    """The files that importing a dotted name below ``folder`` executes; empty when it names no module there."""
    target = folder.joinpath(*name.split("."))
    module = next((p for p in (target.with_suffix(".py"), target / "__init__.py") if name and p.is_file()), None)
    if module is None:
        return []
    packages = [parent / "__init__.py" for parent in target.parents if parent.is_relative_to(folder)]
    # What stands in holdfast's own list of public names changes nothing that is measured.
    return [p.resolve() for p in (module, *packages) if p.is_file() and p != _PACKAGE / "__init__.py"]


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size


@cache
def _digest(path: Path, stamp: tuple[int, int]) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@cache
def _imports(path: Path, stamp: tuple[int, int]) -> tuple[str, ...]:
    """Dotted names that may be modules: all that a file imports, and what it takes from ``holdfast`` by attribute."""
    nodes = list(_executed(ast.parse(path.read_bytes(), filename=str(path))))
    modules = [alias for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    ours = {alias.asname or alias.name for alias in modules if alias.name == "holdfast"}
    names = {alias.name for alias in modules}
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            names |= {base, *(f"{base}{'' if base.endswith('.') else '.'}{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ours:
            names.add(f"holdfast.{node.attr}")
    return tuple(sorted(names))


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below ``node`` except what only the type checker reads."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and getattr(child.test, "id", getattr(child.test, "attr", "")) == "TYPE_CHECKING":
            for branch in child.orelse:
                yield from _executed(branch)
        else:
            yield child
            yield from _executed(child)


# --- environment ----------------------------------------------------------------------------------------


def environment() -> dict[str, Any]:
    """What a number depends on besides source and configuration: versions, processor, threads, commit, time."""
    return {
        "holdfast": _version("holdfast"),
        **_checkout(_PACKAGE),
        "python": platform.python_version(),
        **{package: _version(package) for package in ("torch", "numpy", "onnx", "onnxruntime")},
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
        "platform": platform.platform(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _checkout(folder: Path) -> dict[str, Any]:
    """Commit of the checkout in which holdfast stands, and whether files differ from it; empty outside one."""
    commit = _git(folder, "rev-parse", "HEAD")
    tracked = _git(folder, "ls-files", "__init__.py")  # a package installed below some other project is not its code
    if not commit or not tracked:
        return {"commit": "", "dirty": False}
    return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain", "--", "."))}


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    found = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(found, platform.processor())
