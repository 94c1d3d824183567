"""The ``sweep`` block of a study file: one base recipe and a grid become a recipe per point of the grid."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.core.errors import InputError, nearest

__all__ = ["expand_sweep", "with_path"]


def expand_sweep(sweep: Any, recipes: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """The recipes of a sweep by name, in the order of the grid, the last axis fastest.

    Args:
        sweep: name -> ``{"base": recipe, "grid": {dotted.path: values}}``; one value need not be a list.
        recipes: the recipes written out.
        where: the study file, for errors.

    Returns:
        ``base`` with the values of the point, under the name ``name[last part of path=value,...]``.

    Raises:
        InputError: a block without ``base`` and ``grid``, an unknown base, a path that leads nowhere, an axis
            without values, or two points of the same name.
    """
    if not isinstance(sweep, Mapping):
        raise InputError("must map a name to {base, grid}", where=f"{where}: sweep")
    points: dict[str, Any] = {}
    for name, block in sweep.items():
        place = f"{where}: sweep.{name}"
        if not isinstance(block, Mapping) or set(block) != {"base", "grid"} or not isinstance(block["grid"], Mapping):
            raise InputError("needs exactly the keys base and grid", where=place)
        if block["base"] not in recipes:
            raise InputError(f"base {block['base']!r} is no recipe", where=place, fix=nearest(block["base"], recipes))
        for setting in _points(block["grid"], place):
            values = ",".join(f"{path.rsplit('.', 1)[-1]}={value}" for path, value in setting.items())
            label = f"{name}[{values}]"
            if label in points or label in recipes:
                raise InputError(f"two recipes are called {label!r}", where=place, fix="give every value once")
            body = recipes[block["base"]]
            for path, value in setting.items():
                body = with_path(body, path.split("."), value, where=f"{place}.grid.{path}")
            points[label] = body
    return points


def _points(grid: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    axes = {str(path): values if isinstance(values, list) else [values] for path, values in grid.items()}
    for path, values in axes.items():
        if not values:
            raise InputError("no values", where=f"{where}.grid.{path}")
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def with_path(node: Any, path: Sequence[str], value: Any, *, where: str) -> Any:
    """A copy of a nest of mappings and lists with ``value`` at ``path``; a bare name on the way gets options.

    Raises:
        InputError: the path leads through a value, or to a position that a list does not have.
    """
    head, *rest = path
    if node is None or isinstance(node, str):
        node = {node: {}} if node else {}
    if isinstance(node, Mapping):
        return {**node, head: with_path(node.get(head), rest, value, where=where) if rest else value}
    if not isinstance(node, list):
        raise InputError(f"leads to {head!r} of {node!r}", where=where, fix="write the path as in the base recipe")
    if not head.isdecimal() or int(head) >= len(node):
        raise InputError(f"no position {head!r} among {len(node)}", where=where, fix="positions count from 0")
    new = list(node)
    new[int(head)] = with_path(node[int(head)], rest, value, where=where) if rest else value
    return new
