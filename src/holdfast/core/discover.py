"""Plug-ins and tasks by name, imported when they are used; the only place that imports by string."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from holdfast.core.catalogue import describe, find, names
from holdfast.core.contracts import Task
from holdfast.core.errors import InputError, nearest
from holdfast.core.options import call

__all__ = ["build", "describe", "load", "load_task", "names", "plugin_module", "task_roots"]


# --- plug-ins -------------------------------------------------------------------------------------------


def load(kind: str, name: str) -> Any:
    """Import a plug-in's class or function.

    Raises:
        InputError: no plug-in of that name, naming the nearest; or a file that is no Python.
    """
    plug_in = find(kind, name)
    try:
        return getattr(importlib.import_module(plug_in.module), plug_in.attribute)
    except SyntaxError as error:
        raise InputError(str(error.msg), where=f"{error.filename}, line {error.lineno}") from None


def plugin_module(kind: str, name: str) -> str:
    """Name of the module in which a plug-in stands; see `load`."""
    return find(kind, name).module


def build(kind: str, spec: str | Mapping[str, Any]) -> Any:
    """A plug-in from what stands in a study file: a name, or a name and its options.

    An option that is itself a plug-in (its annotation is a contract such as `Attack`) is built the same way.

    Args:
        kind: a key of `KINDS`.
        spec: ``"fgsm"`` or ``{"fgsm": {"eps": 0.5}}``.

    Raises:
        InputError: an unknown plug-in or option (naming the nearest), or a value of the wrong type.
    """
    if isinstance(spec, Mapping):
        if len(spec) != 1:
            raise InputError(f"one name with its options is needed, not {list(spec)}", where=kind)
        name, options = next(iter(spec.items()))
    else:
        name, options = spec, {}
    return call(load(kind, name), options or {}, where=f"{kind} {name!r}", build=build)


# --- tasks ----------------------------------------------------------------------------------------------


def load_task(spec: str, options: Mapping[str, Any] | None = None, *, base: Path) -> Task:
    """The task of a study. A task file is executed: load only what you trust.

    Args:
        spec: a built-in name, ``path/to/file.py:name`` or ``package.module:name``; ``name`` is a `Task` or a
            function that returns one.
        options: keyword arguments of that function.
        base: folder to which a path is relative.

    Raises:
        InputError: no such file, module or name (naming the nearest), a file that fails, or something else than a
            task.
    """
    if ":" not in spec:
        if spec.endswith(".py"):
            raise InputError("which task of the file?", where=spec, fix=f"write {spec}:name")
        return _as_task(load("task", spec), options or {}, f"task {spec!r}")
    place, _, attribute = spec.rpartition(":")
    module = _load_file(base / place) if place.endswith(".py") else _load_module(place, base)
    if not hasattr(module, attribute):
        public = [name for name in vars(module) if not name.startswith("_")]
        raise InputError(f"has no {attribute!r}", where=place, fix=nearest(attribute, public))
    return _as_task(getattr(module, attribute), options or {}, f"task {spec!r}")


def task_roots(spec: str, *, base: Path) -> list[str | Path]:
    """Where the source of a task begins: a module name for a built-in task, else a file; see `source_hash`."""
    if ":" not in spec:
        return [plugin_module("task", spec)]
    place = spec.rpartition(":")[0]
    file = base / place if place.endswith(".py") else _load_module(place, base).__file__
    return [Path(file)] if file else []


def _as_task(found: Any, options: Mapping[str, Any], where: str) -> Task:
    if isinstance(found, Task):
        if options:
            raise InputError(f"takes no options, got {sorted(options)}", where=where, fix="remove task_options")
        return found
    task = call(found, options, where=where, build=build) if callable(found) else found
    if not isinstance(task, Task):
        raise InputError(f"is of type {type(task).__name__}, not Task", where=where, fix="return holdfast.Task(...)")
    return task


def _load_file(path: Path) -> ModuleType:
    path = path.resolve()
    if not path.is_file():
        raise InputError("no such task file", where=str(path), fix="paths are relative to the study file")
    # The name depends on the path alone, so worker processes that load the file can unpickle what it defines.
    name = f"holdfast_task_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    _import_from(path.parent)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise _failed(error, path) from error
    return module


def _load_module(name: str, base: Path) -> ModuleType:
    _import_from(base)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _failed(error, name) from error
        raise InputError(
            f"no module {error.name!r}", where=f"task {name!r}", fix="install it, or give file.py:name"
        ) from None
    except Exception as error:
        raise _failed(error, name) from error


def _failed(error: Exception, where: Path | str) -> InputError:
    """What went wrong while a task's module was executed, with the last line of it that was reached."""
    line, trace = "", error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(where):
            line = f", line {trace.tb_lineno}"
        trace = trace.tb_next
    return InputError(f"{type(error).__name__}: {error}", where=f"{where}{line}", fix="--debug shows the whole trace")


def _import_from(folder: Path) -> None:
    """Let a task import the files beside it, as a script may."""
    if str(folder.resolve()) not in sys.path:
        sys.path.insert(0, str(folder.resolve()))
