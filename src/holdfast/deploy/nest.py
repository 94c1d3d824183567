"""Nests of tensors as a flat list and a JSON description, so that a session returns what the model returned."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from holdfast.core.contracts import Outputs
from holdfast.core.errors import BackendError

__all__ = ["Record", "flatten", "map_tensors", "unflatten"]


class Record(dict[str, Any]):
    """A dictionary whose entries are attributes too; stands for the output classes that behave so."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def flatten(nest: Outputs) -> tuple[list[Tensor], Any]:
    """The tensors of a nest in order, and its layout as plain JSON data; `unflatten` is the inverse.

    Dictionaries, tuples, named tuples, lists and None are kept; a mapping of another class comes back as a
    `Record`. A tensor that occurs twice is listed twice.

    Raises:
        BackendError: at anything else, naming its place.
    """
    tensors: list[Tensor] = []
    return tensors, _layout(nest, tensors, "outputs")


def _layout(nest: Any, tensors: list[Tensor], place: str) -> Any:
    if isinstance(nest, Tensor):
        tensors.append(nest)
        return "tensor"
    if nest is None:
        return None
    if isinstance(nest, Mapping):
        kind = "dict" if type(nest) is dict else "record"
        return {kind: [[str(key), _layout(value, tensors, f"{place}.{key}")] for key, value in nest.items()]}
    if isinstance(nest, tuple) and (names := getattr(nest, "_fields", None)):
        children = [_layout(value, tensors, f"{place}.{name}") for name, value in zip(names, nest, strict=True)]
        return {"named": [type(nest).__name__, list(names), children]}
    if isinstance(nest, tuple | list):
        kind = "tuple" if isinstance(nest, tuple) else "list"
        return {kind: [_layout(value, tensors, f"{place}.{i}") for i, value in enumerate(nest)]}
    raise BackendError(
        f"{type(nest).__name__} among the outputs", where=place, fix="return tensors in dicts, tuples or lists"
    )


def unflatten(tensors: Sequence[Tensor], layout: Any) -> Outputs:
    """The nest of a layout made by `flatten`, filled with ``tensors`` in order."""
    rest = iter(tensors)
    nest = _fill(layout, rest)
    assert next(rest, None) is None, "more tensors than the layout has places"
    return nest


def _fill(layout: Any, rest: Any) -> Any:
    if layout is None:
        return None
    if layout == "tensor":
        return next(rest)
    ((kind, body),) = layout.items()
    if kind == "named":
        name, fields, children = body
        return namedtuple(name, fields)(*(_fill(child, rest) for child in children))
    if kind in ("dict", "record"):
        items = {key: _fill(child, rest) for key, child in body}
        return items if kind == "dict" else Record(items)
    children = [_fill(child, rest) for child in body]
    return tuple(children) if kind == "tuple" else children


def map_tensors(change: Callable[[Tensor], Tensor], nest: Outputs) -> Outputs:
    """The nest with ``change`` applied to each of its tensors."""
    tensors, layout = flatten(nest)
    return unflatten([change(tensor) for tensor in tensors], layout)
