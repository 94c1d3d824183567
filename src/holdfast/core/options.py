"""Options from a study file, checked against what a plug-in accepts before it is called."""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from holdfast.core import contracts
from holdfast.core.errors import InputError, nearest

__all__ = ["call"]

_KIND_OF_CONTRACT = {
    contracts.Attack: "attack",
    contracts.Method: "method",
    contracts.Surgery: "surgery",
    contracts.Average: "average",
    contracts.WeightPerturbation: "method",
    contracts.Probe: "probe",
    contracts.Backend: "backend",
}

Build = Callable[[str, Any], Any]


def call(target: Callable[..., Any], options: Mapping[str, Any], *, where: str, build: Build) -> Any:
    """Call a class or function with options, each checked against its annotation.

    Args:
        target: what is called; its parameters are the valid options.
        options: by name, as they stand in a study file; numbers, lists and mappings are converted.
        where: names the target in errors.
        build: ``(kind, spec) -> object``, for parameters that are plug-ins themselves.

    Raises:
        InputError: an unknown option (naming the nearest), a missing one, or a value of the wrong type.
    """
    if not isinstance(options, Mapping):
        raise InputError(f"options must be a mapping, got {options!r}", where=where, fix="write {name: value}")
    parameters = inspect.signature(target).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name in options:
        if name not in parameters and not open_ended:
            raise InputError(f"unknown option {name!r}", where=where, fix=nearest(name, parameters))
    missing = [p.name for p in parameters.values() if _required(p) and p.name not in options]
    if missing:
        raise InputError(f"option {missing[0]!r} is missing", where=where)
    hints = {name: _annotation(target, parameters[name]) for name in options if name in parameters}
    values = {k: _convert(v, hints.get(k, Any), f"{where}, option {k!r}", build) for k, v in options.items()}
    try:
        return target(**values)
    except (TypeError, ValueError) as error:
        raise InputError(str(error), where=where) from error


def _required(parameter: inspect.Parameter) -> bool:
    by_name = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    return by_name and parameter.default is parameter.empty


def _annotation(target: Any, parameter: inspect.Parameter) -> Any:
    """The parameter's type, or Any where it cannot be known without importing more."""
    if parameter.annotation is parameter.empty:
        return Any
    if not isinstance(parameter.annotation, str):
        return parameter.annotation
    scope = {**vars(contracts), **vars(sys.modules[target.__module__])}
    try:
        return eval(parameter.annotation, scope)  # the plug-in's own source, imported already
    except (NameError, AttributeError, TypeError):
        return Any


def _convert(value: Any, hint: Any, where: str, build: Build) -> Any:
    kinds = _kinds(hint)
    if not kinds:
        return _validate(value, hint, where)
    if isinstance(value, str | Mapping):
        return build(kinds[0], value)
    if isinstance(value, Sequence):
        return tuple(_convert(item, hint, where, build) for item in value)
    return value


def _kinds(hint: Any) -> list[str]:
    """Kinds of the contracts that an annotation mentions."""
    if typing.get_origin(hint) in (None, typing.Annotated):
        return [_KIND_OF_CONTRACT[hint]] if isinstance(hint, type) and hint in _KIND_OF_CONTRACT else []
    return [kind for part in typing.get_args(hint) for kind in _kinds(part)]


def _validate(value: Any, hint: Any, where: str) -> Any:
    # Only what is built is validated: the command line starts without pydantic.
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

    try:
        adapter: TypeAdapter[Any] = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:  # a dataclass or model brings its own configuration
        adapter = TypeAdapter(hint)
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        reasons = dict.fromkeys(found["msg"] for found in error.errors())
        raise InputError(f"{' or '.join(reasons)}, got {value!r}", where=where) from None
