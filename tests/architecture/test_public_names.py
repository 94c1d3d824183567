from __future__ import annotations

import ast

import pytest
from source import SOURCE, tree

import holdfast


@pytest.mark.parametrize("name", sorted(holdfast.HOMES))
def test_every_public_name_is_found(name: str) -> None:
    found = getattr(holdfast, name)
    assert found.__name__ == name
    assert found.__module__ == holdfast.HOMES[name]


def test_the_type_checker_sees_the_same_names() -> None:
    checked = {
        alias.name: node.module
        for node in ast.walk(tree(SOURCE / "__init__.py"))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("holdfast.")
        for alias in node.names
    }
    assert checked == holdfast.HOMES
    assert set(holdfast.__all__) == {*holdfast.HOMES, "HOMES"}
    assert dir(holdfast) == sorted(holdfast.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'holdfast' has no attribute 'Nope'"):
        _ = holdfast.Nope
